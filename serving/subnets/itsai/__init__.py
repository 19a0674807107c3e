"""It's AI (SN32): for every word of a text, the probability that a machine wrote it."""
