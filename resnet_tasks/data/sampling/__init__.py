"""Sample order, repeat factors and data loaders."""
