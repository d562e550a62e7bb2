"""Subgroups of images by an attribute of their records, or by size, brightness or color."""
