"""Plugins to copy: a detector and a task of their own, each in one file."""
