"""Instance segmentation: one box, score, class and mask per object."""
