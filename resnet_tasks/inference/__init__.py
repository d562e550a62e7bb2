"""Prediction: windows, test-time augmentation, merging and prediction files."""
