"""Triton: control over gRPC (`Triton`), a throw-away server (`throwaway`), the warm-up before any routing (`warm`)."""

from infra.triton.client import Triton, TritonError
from infra.triton.server import throwaway
from infra.triton.warmup import BatchWarm, WarmReport, requests_of, warm

__all__ = ["BatchWarm", "Triton", "TritonError", "WarmReport", "requests_of", "throwaway", "warm"]
