"""Order of samples, repeat factors and data loaders."""
