"""Contract test for heads, and the random features and batches that it runs on."""
