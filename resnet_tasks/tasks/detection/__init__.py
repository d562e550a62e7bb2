"""Detection: boxes, classes and scores of objects."""
