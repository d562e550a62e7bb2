"""Classification of whole images, single-label and multi-label."""
