"""Reading of COCO files and images into typed samples and batches."""
