"""Converters from other annotation formats to COCO, one module or folder per format."""
