"""The validated, frozen description of one run."""
