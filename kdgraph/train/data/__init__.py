"""Data sets, one file each: real data with an honest split. No module here imports torch early."""
