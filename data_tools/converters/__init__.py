"""Converters from other annotation formats to COCO, one module or folder per format.

The contract of a converter is described in `data_tools.writing.dataset_writer`.
"""
