"""Typed structures that all parts exchange: samples, targets, predictions, metrics."""
