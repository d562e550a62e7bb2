"""Heads trained on the same images: plan, trainings, results, cost and tables."""
