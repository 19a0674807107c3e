"""The road of a request, from the wire to Triton and back: start at `serving.app`."""
