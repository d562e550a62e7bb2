"""Recipe -> objects: the only translator between numbers and parts."""
