"""Layers that compute the same as their plain form with less memory or time."""
