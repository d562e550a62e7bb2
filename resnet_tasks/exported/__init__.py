"""Exported models: loaded and used without torch."""
