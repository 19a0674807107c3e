"""The embedded stack: real parts on loopback, kept alive by supervisord."""
