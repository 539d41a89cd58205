"""Actions, one file each: what is done to a model between stages."""
