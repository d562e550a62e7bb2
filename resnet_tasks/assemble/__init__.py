"""Construction of models, datasets and labels from a recipe."""
