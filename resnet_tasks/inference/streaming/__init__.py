"""Prediction of many images and videos as a stream, which goes on where it stopped."""
