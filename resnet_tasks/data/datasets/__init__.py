"""Torch datasets of COCO files: samples, targets and tiles."""
