"""COCO files: parsing, validation, packed storage and label maps."""
