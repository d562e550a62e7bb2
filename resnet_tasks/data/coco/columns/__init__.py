"""COCO annotation and results files as columns of numbers, for the evaluation of large files."""
