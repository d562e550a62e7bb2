"""Typed structures that all packages exchange: samples, targets, predictions, metrics."""
