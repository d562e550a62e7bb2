"""Example plugins to copy: a custom detector and a custom task, each in one file."""
