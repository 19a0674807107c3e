"""A small client of gRPC: calls over HTTP/2 on the event loop, without threads."""
