"""COCO files in, typed samples and batches out."""
