"""The servers that are measured: ours, and each rival's in the interpreter of its own environment."""
