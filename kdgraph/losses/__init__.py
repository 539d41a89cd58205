"""Losses, one file each. A loss is a pure function of tensors; its parameters are spec keys."""
