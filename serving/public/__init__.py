"""The public port: sockets, HTTP, and who may connect."""
