"""Measurements that the documentation quotes, each a module with a `main(argv)`."""
