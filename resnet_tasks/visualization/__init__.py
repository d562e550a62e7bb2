"""Drawings of predictions and ground truth, and contact sheets."""
