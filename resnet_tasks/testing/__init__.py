"""Contract test for heads, with the random features and batches that it uses."""
