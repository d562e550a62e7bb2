"""Checks before and during training: coverage, memory, non-finite losses, signals."""
