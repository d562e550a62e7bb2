"""Pretrained ResNets: picture -> {"C1": ..., "C5": ...}."""
