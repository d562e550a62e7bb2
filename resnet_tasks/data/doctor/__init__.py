"""Dataset doctor: finds and repairs problems in COCO files and between splits."""
