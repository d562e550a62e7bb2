"""CSV tables with one box per row."""
