"""Metrics by subgroup of the images, from the matches of one evaluation."""
