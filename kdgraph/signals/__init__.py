"""Signals, one file each: tensors derived from taps and batch entries."""
