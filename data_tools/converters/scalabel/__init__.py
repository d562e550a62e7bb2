"""Scalabel JSON, the format of BDD100K."""
