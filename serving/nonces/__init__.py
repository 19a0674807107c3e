"""The replay store: each (sender, nonce) once."""
