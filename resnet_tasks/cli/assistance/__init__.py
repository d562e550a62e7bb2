"""Suggestions for unknown commands and options, and shell completion."""
