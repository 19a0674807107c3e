"""A gateway under test: two real workers in processes of their own, and a model that answers over Triton's gRPC."""

from bench.stand.requests import Asker, Wire
from bench.stand.stand import Stand

__all__ = ["Asker", "Stand", "Wire"]
