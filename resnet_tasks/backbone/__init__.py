"""Pretrained ResNets: image -> {"C1": ..., "C5": ...}."""
