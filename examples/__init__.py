"""Plugins to copy: a detector and a custom task, each in one file."""
