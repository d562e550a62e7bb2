"""Numerical building blocks shared by the evaluators."""
