"""Faster R-CNN: region proposal network, RoI heads and matching of boxes to targets."""
