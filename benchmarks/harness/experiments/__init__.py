"""Experiments that train every head of a task on the same images: plan, results, cost, tables."""
