"""Augmentation of images together with their annotations."""
