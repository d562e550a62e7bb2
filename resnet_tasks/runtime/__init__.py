"""Processes, devices, signals, console and memory of the running program."""
