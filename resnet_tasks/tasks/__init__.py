"""Built-in tasks: declared outputs of a head -> predictions, and everything that follows."""
