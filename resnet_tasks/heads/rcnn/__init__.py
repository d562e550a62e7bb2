"""Faster R-CNN: region proposals, RoI head and box targets."""
