"""The GARCH-t fit on returns that have their level and time of day taken out; checked, and shrunk where data are few."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

MIN_RETURNS = 250
MAX_PERSISTENCE = 0.998
NU_RANGE = (3.5, 30.0)


class Garch(NamedTuple):
    """GARCH(1,1) with standardised Student-t innovations, long-run variance 1."""

    alpha: float
    beta: float
    nu: float
    level: float
    """Long-run variance of the returns that were fitted, by which they must be divided for it to be 1."""
    note: str

    @property
    def omega(self) -> float:
        """What keeps the long-run variance at 1."""
        return 1.0 - self.alpha - self.beta


def fit_garch(returns: F64, seed: int = 0) -> Garch | str:
    """The maximum-likelihood fit by the arch package (Bollerslev 1987), or why there is none, in words."""
    from arch import arch_model

    if len(returns) < MIN_RETURNS:
        return f"{len(returns)} returns are too few for GARCH-t ({MIN_RETURNS} needed)"
    scale = float(np.sqrt(np.mean(returns**2)))
    if not (np.isfinite(scale) and scale > 0):
        return "the returns do not move"
    model = arch_model(returns / scale, mean="Zero", vol="GARCH", p=1, q=1, dist="t", rescale=False)
    result = model.fit(disp="off", show_warning=False)
    omega, alpha, beta, nu = (float(result.params[name]) for name in ("omega", "alpha[1]", "beta[1]", "nu"))
    if result.convergence_flag != 0 or not np.isfinite([omega, alpha, beta, nu]).all():
        return f"GARCH-t did not converge (flag {result.convergence_flag})"
    if alpha + beta >= MAX_PERSISTENCE:
        return f"GARCH-t is not stationary (alpha + beta = {alpha + beta:.4f})"
    level = scale**2 * omega / (1 - alpha - beta)
    nu = min(max(nu, NU_RANGE[0]), NU_RANGE[1])
    note = f"GARCH-t on {len(returns)} returns: alpha {alpha:.4f}, beta {beta:.4f}, nu {nu:.2f}"
    return Garch(alpha, beta, nu, level, note)
