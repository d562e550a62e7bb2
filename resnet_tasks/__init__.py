"""One pretrained ResNet, many heads, one recipe."""
