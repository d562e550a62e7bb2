"""Heads: features -> losses, and features -> predictions."""
