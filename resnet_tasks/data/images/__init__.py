"""Image files: formats, decoding, intensity, resizing and windows."""
