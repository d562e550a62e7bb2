"""Converters from other annotation formats to COCO, one module per source format."""
