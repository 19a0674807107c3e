"""Synth (SN50): 1,000 simulated price paths of an asset, scored by CRPS against the price that came."""
