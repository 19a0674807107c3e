"""What makes a validator of It's AI give a round nothing, as far as an answer alone can.

What it needs two calls to see is a matter of determinism: it rounds both to two decimals and zeroes the round where
they differ. A value near the middle of two steps differs after the smallest noise, so answers leave on the coarse grid.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from serving.subnets.itsai.rules import DECIMALS

FloatArray = npt.NDArray[np.float64]


def fault(words: int, probabilities: npt.NDArray[Any]) -> str | None:
    """Why an answer would earn nothing, or None: one finite probability for each of the `words`, all texts in a row."""
    if probabilities.shape != (words,):
        return f"probabilities have shape {probabilities.shape} instead of {(words,)}"
    if words == 0:
        return None
    if not np.isfinite(probabilities).all():
        return "a probability is not finite"
    if probabilities.min() < 0 or probabilities.max() > 1:
        return "a probability is not between 0 and 1"
    return None


def coarse(probabilities: npt.NDArray[Any]) -> FloatArray:
    """Probabilities on the grid that the validator compares on, float64; never a negative zero."""
    return np.asarray(np.round(probabilities.astype(np.float64), DECIMALS) + 0.0, dtype=np.float64)


def agree(main: npt.NDArray[Any], check: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where the main call's values and the check call's are the same to the validator."""
    same: npt.NDArray[np.bool_] = np.round(main, DECIMALS) == np.round(check, DECIMALS)
    return same
