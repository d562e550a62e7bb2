"""Processes, devices, progress bars and memory of the running program."""
