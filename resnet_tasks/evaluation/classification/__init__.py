"""Metrics of single-label and multi-label classification."""
