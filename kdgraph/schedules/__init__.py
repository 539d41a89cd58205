"""Schedules, one file each: numbers that move with training."""
