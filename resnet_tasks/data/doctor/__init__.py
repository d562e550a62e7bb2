"""The doctor of data sets: what is wrong with COCO files and between splits, and repairs."""
