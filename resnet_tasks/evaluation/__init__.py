"""Metrics with the names and protocols that the field publishes."""
