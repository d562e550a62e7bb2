"""Prediction of many pictures and videos as a stream, which goes on where it stopped."""
