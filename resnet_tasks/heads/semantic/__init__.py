"""Semantic segmentation heads: U-Net and semantic FPN."""
