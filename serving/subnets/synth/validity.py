"""The validator's validity rules: literally, for answers as they arrive, and fast, for our own before it leaves.

One bad number voids all paths of an answer, so nothing leaves that `fault` finds wanting.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from serving.subnets.synth.digits import FloatArray, fits, too_long
from serving.subnets.synth.request import Request
from serving.subnets.synth.ticks import Ticks

CORRECT = "CORRECT"


def validity(request: Request, process_time: object, response: Any) -> str:
    """What the validator says of a response (a Python value read from JSON): `CORRECT`, or its reason.

    `process_time` None stands for a timeout or an HTTP error. An exception on the validator's side, which voids the
    answer too, is told by its name. Zero, negative and non-finite prices are CORRECT here.
    """
    if process_time is None:
        return "time out or internal server error (process time is None)"
    if response is None or (isinstance(response, (list, tuple)) and not response):
        return "Response is empty"
    if not isinstance(response, (list, tuple)):
        return f"Response format is incorrect: expected tuple or list, got {type(response)}"
    return _head(request, response) or _paths(request, response[2:]) or CORRECT


def _head(request: Request, response: list[Any] | tuple[Any, ...]) -> str | None:
    start = response[0]
    if not isinstance(start, int):
        return f"Start time format is incorrect: expected int, got {type(start)}"
    if start != request.start:
        return f"Start time timestamp is incorrect: expected {request.start}, got {start}"
    if len(response) < 2:
        return "IndexError"
    increment, wanted = response[1], request.input.time_increment
    if not isinstance(increment, int):
        return f"Time increment format is incorrect: expected int, got {type(increment)}"
    if increment != wanted:
        return f"Time increment is incorrect: expected {wanted}, got {increment}"
    return None


def _paths(request: Request, paths: list[Any] | tuple[Any, ...]) -> str | None:
    wanted = request.input.num_simulations
    if len(paths) != wanted:
        return f"Number of paths is incorrect: expected {wanted}, got {len(paths)}"
    for path in paths:
        if not isinstance(path, list):
            return f"Path format is incorrect: expected list, got {type(path)}"
        if len(path) != request.points:
            return f"Number of time points is incorrect: expected {request.points}, got {len(path)}"
        for price in path:
            if not isinstance(price, (int, float)):
                return f"Price format is incorrect: expected int or float, got {type(price)}"
            if not fits(price):
                return f"Price format is incorrect: too many digits {price}"
    return None


def verdict(request: Request, process_time: object, response: Any) -> tuple[str, FloatArray | None]:
    """`validity` and the paths (n, points) of a correct response, without a loop over prices where none is needed.

    A rectangle of numbers that passes the array form of the digit rule passes the literal one; whatever does not is
    judged literally.
    """
    if process_time is not None and isinstance(response, list) and len(response) > 2:
        paths = _rectangle(response[2:])
        if (
            paths is not None
            and paths.shape == (request.input.num_simulations, request.points)
            and _head(request, response) is None
            and _plain(paths)
        ):
            return CORRECT, paths
    said = validity(request, process_time, response)
    return said, np.array(response[2:], dtype=np.float64) if said == CORRECT else None


def _rectangle(paths: list[Any]) -> FloatArray | None:
    if not all(isinstance(path, list) for path in paths):
        return None
    try:
        array: npt.NDArray[Any] = np.array(paths)
    except ValueError:  # ragged
        return None
    return array if array.dtype == np.float64 and array.ndim == 2 else None


def _plain(paths: FloatArray) -> bool:
    """Prices that Python writes without an exponent and within the rule, as floats and so as integers too."""
    low, high = paths.min(), paths.max()
    return bool(low >= 1e-4 and high < 1e7) and not too_long(paths).any()


def fault(request: Request, paths: npt.NDArray[Any] | Ticks) -> str | None:
    """Why our own answer must not leave, or None: the validator's rules on prices (n, points), and more.

    Every price must be finite, or it cannot be sent, and positive: an exact 0 makes the whole prompt count as invalid.
    """
    wanted = (request.input.num_simulations, request.points)
    if paths.shape != wanted:
        return f"paths have shape {paths.shape} instead of {wanted}"
    return paths.fault() if isinstance(paths, Ticks) else _array_fault(paths)


def _array_fault(paths: npt.NDArray[Any]) -> str | None:
    if paths.dtype != np.float64:
        return f"prices are {paths.dtype} instead of float64"
    if not np.isfinite(paths).all():
        return "a price is not finite"
    if paths.min() <= 0:
        return "a price is not positive"
    broken = too_long(paths)
    if broken.any():
        return f"Price format is incorrect: too many digits {float(paths[broken][0])}"
    return None
