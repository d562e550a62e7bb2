"""One-stage detectors: FCOS and RetinaNet."""
