"""Several runs of one recipe: seeds, cross-validation, learning-rate finder."""
