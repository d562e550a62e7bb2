"""NIfTI volumes as 2-D slices."""
