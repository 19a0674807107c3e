"""Price paths for the Synth subnet: fit (`train`), bundle (`release`), and what Triton runs (`model`)."""
