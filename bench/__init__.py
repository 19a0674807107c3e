"""Benchmarks: one file each, side by side with a rival in one run."""
