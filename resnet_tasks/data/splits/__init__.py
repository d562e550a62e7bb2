"""Train, val and test splits and folds that never cut a group."""
