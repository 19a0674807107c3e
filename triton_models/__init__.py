"""One folder a model family: how it is fitted, bundled, and what Triton runs."""
