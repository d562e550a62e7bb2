"""Weights of whole pretrained models: a backbone and a head in one go."""
