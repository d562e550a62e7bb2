"""Experiments on one recipe: several seeds, cross-validation, learning-rate finder."""
