"""Validators on an open loop, and those who attack, each a process of its own: for `bench.flood` and `bench.siege`."""
