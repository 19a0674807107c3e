"""The world outside the road: settings, stores, the ledger, the chain, prices, Triton, and the stack of one box."""
