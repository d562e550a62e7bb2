"""Shapes of objects: masks, polygons, outlines and connected components."""
