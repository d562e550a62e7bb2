"""Heads for semantic segmentation: U-Net and semantic FPN."""
