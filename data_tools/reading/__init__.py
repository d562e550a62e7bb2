"""Readers that the converters share: archives, XML, JSON, images."""
