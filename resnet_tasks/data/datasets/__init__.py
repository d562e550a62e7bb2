"""Torch datasets over COCO files: samples, targets and tiles."""
