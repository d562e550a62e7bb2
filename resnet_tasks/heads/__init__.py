"""Heads: features -> losses, features -> predictions."""
