"""Whole models as graphs for other engines, and prediction with them without torch."""
