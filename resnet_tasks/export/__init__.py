"""Export of whole models as graphs for other inference engines."""
