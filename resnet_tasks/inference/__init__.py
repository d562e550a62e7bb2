"""Prediction: sliding windows, test-time augmentation, merging and prediction files."""
