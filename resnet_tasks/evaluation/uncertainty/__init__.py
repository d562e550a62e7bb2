"""Confidence intervals, paired tests and calibration."""
