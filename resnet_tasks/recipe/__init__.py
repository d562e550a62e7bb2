"""Recipes: validated, frozen descriptions of runs."""
