"""Evaluation protocols beyond COCO: FROC, KITTI, surface distance, operating points."""
