"""The parts of `bench.soak`: two releases a slot, flips between them, memory watched, and the books balanced."""
