"""Layers that more than one head needs."""
