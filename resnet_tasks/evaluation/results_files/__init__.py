"""Evaluation of results files without a model."""
