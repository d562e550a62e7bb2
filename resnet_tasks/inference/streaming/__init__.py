"""Resumable prediction of many images and videos as a stream."""
