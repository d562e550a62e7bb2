"""Predictions for one image: how they are filtered, drawn, written and compared."""
