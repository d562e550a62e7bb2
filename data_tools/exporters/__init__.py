"""Exporters from COCO to other annotation formats."""
