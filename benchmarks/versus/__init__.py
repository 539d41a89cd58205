"""What ``benchmarks/vs_torchdistill.py`` is made of."""
