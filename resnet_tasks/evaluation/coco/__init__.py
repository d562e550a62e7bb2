"""COCO metrics of boxes and instance masks."""
