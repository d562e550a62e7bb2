"""Sections of a recipe as frozen pydantic models: types, ranges, defaults and checks."""
