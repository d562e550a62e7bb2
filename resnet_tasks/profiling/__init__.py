"""Profiles of training steps: time, memory and advice."""
