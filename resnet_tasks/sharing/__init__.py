"""Runs to a model hub and back."""
