"""Files of a run folder, below everything that knows recipes or models."""
