"""The GARCH-t fit on returns that have their time of day taken out: checked, and shrunk where data are few."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

MIN_RETURNS = 250
MAX_PERSISTENCE = 0.999
"""alpha + beta from which the long-run variance says nothing any more."""

PRIOR_RETURNS = 1_000
"""Returns of evidence that the usual values below weigh against the fit."""
PRIOR_ALPHA, PRIOR_PERSISTENCE, PRIOR_NU = 0.05, 0.985, 8.0
"""Usual for share prices within the day: between a fit to 7,000 one-minute returns of another share (0.05, 0.99, 12)
and fits to hourly AAPL before its held-out part (0.09, 0.97, 4). Two days of minutes alone say little about any."""


class Garch(NamedTuple):
    """GARCH(1,1) with standardised Student-t innovations and long-run variance 1, for returns over sqrt(level)."""

    alpha: float
    beta: float
    nu: float
    level: float
    """Long-run variance of the returns as they were handed in."""
    note: str

    @property
    def omega(self) -> float:
        """What keeps the long-run variance at 1."""
        return round(1.0 - self.alpha - self.beta, 9)


def fit_garch(returns: F64) -> Garch | str:
    """Maximum likelihood by the arch package (Bollerslev 1987), shrunk; or why there is no such fit, in words.

    `returns` (n,), oldest first, mean taken as zero. With n returns the fit weighs n / (n + PRIOR_RETURNS) against the
    usual values: alpha and alpha + beta as they are, nu by its inverse, the level by its logarithm towards the mean
    square. Numbers are kept to six digits, so that the last bits of another machine's arithmetic do not change them.
    """
    from arch import arch_model

    n = len(returns)
    if n < MIN_RETURNS:
        return f"{n} returns are too few for GARCH-t, {MIN_RETURNS} are needed"
    square = float(np.mean(returns**2))
    if not (np.isfinite(square) and square > 0):
        return "the returns do not move"
    model = arch_model(returns / np.sqrt(square), mean="Zero", vol="GARCH", p=1, q=1, dist="t", rescale=False)
    result = model.fit(disp="off", show_warning=False)
    omega, alpha, beta, nu = (float(result.params[name]) for name in ("omega", "alpha[1]", "beta[1]", "nu"))
    if result.convergence_flag != 0 or not np.isfinite([omega, alpha, beta, nu]).all():
        return f"GARCH-t did not converge (flag {result.convergence_flag})"
    persistence = alpha + beta
    if persistence >= MAX_PERSISTENCE or omega <= 0:
        return f"GARCH-t is not stationary (alpha + beta = {persistence:.4f})"
    long_run = omega / (1.0 - persistence)  # in units of the mean square
    note = f"GARCH-t on {n} returns: alpha {alpha:.4f}, beta {beta:.4f}, nu {nu:.2f}, before shrinking"
    trust = n / (n + PRIOR_RETURNS)
    alpha = trust * alpha + (1 - trust) * PRIOR_ALPHA
    persistence = trust * persistence + (1 - trust) * PRIOR_PERSISTENCE
    nu = 1.0 / (trust / nu + (1 - trust) / PRIOR_NU)
    return Garch(_six(alpha), _six(persistence - alpha), _six(nu), _six(square * long_run**trust), note)


def _six(value: float) -> float:
    return float(f"{value:.6g}")
