"""Losses and layers of the heads that assign a class to every pixel."""
