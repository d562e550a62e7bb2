"""Statistics of a dataset: intensities, sizes, objects and classes."""
