"""Changes of training batches, one file each. No module here imports torch early."""
