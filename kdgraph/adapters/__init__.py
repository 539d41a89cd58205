"""Adapters, one file each: small networks that make a student tensor fit a teacher tensor."""
