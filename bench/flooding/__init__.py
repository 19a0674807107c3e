"""The parts of `bench.flood`: validators on an open loop, and those who attack, each a process of its own."""
