"""Metrics under the names and protocols of the literature."""
