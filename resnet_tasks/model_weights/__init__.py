"""Weights of whole pretrained models: a backbone together with a head."""
