"""Atomic files and folders, folder locks, JSON and mapped columns."""
