"""Train, val and test splits and folds that keep groups together."""
