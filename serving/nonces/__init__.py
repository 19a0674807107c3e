"""The replay store: each (sender, receiver, nonce) once."""
