"""Faster R-CNN and Mask R-CNN: region proposal network, RoI heads, box and mask branches."""
