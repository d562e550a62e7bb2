"""Upload of runs to a model hub and download of shared runs."""
