"""State of a training run: optimizer, schedule, precision, balancing, progress."""
