"""Processes, devices, signals, progress bars and memory of the running program."""
