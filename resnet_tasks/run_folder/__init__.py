"""Files of a run folder, independent of recipes and models."""
