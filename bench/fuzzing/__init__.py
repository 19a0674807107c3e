"""A fuzzer of the gateway's public port: cases, the client that sends them, and the judge of what comes back."""
