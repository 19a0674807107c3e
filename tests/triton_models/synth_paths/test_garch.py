"""The GARCH-t fit: it finds what is there, shrinks where data are few, and says when there is nothing to trust."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from tests.triton_models.synth_paths.series import garch_returns
from triton_models.synth_paths import garch


@pytest.mark.slow
def test_it_finds_the_parameters_of_a_long_series() -> None:
    fitted = garch.fit_garch(0.01 * garch_returns(30_000, alpha=0.1, beta=0.85, nu=6, seed=1))
    assert isinstance(fitted, garch.Garch)
    assert fitted.alpha == pytest.approx(0.1, abs=0.015)
    assert fitted.alpha + fitted.beta == pytest.approx(0.95, abs=0.015)
    assert fitted.nu == pytest.approx(6, rel=0.1)
    assert fitted.level == pytest.approx(1e-4, rel=0.15)
    assert fitted.omega == pytest.approx(1 - fitted.alpha - fitted.beta)


def test_few_returns_are_drawn_to_the_usual_values() -> None:
    """The fit to an independent series would have no persistence at all; 400 returns may not say that."""
    fitted = garch.fit_garch(np.random.default_rng(2).standard_normal(400))
    assert isinstance(fitted, garch.Garch)
    trust = 400 / (400 + garch.PRIOR_RETURNS)
    assert fitted.alpha + fitted.beta >= (1 - trust) * garch.PRIOR_PERSISTENCE - 1e-6
    assert 5 < fitted.nu < 12
    assert fitted.level == pytest.approx(1.0, rel=0.15)
    assert "400 returns" in fitted.note


@pytest.mark.parametrize(
    ("returns", "says"),
    [
        (np.ones(100), "too few"),
        (np.zeros(500), "do not move"),
        (np.full(500, np.nan), "do not move"),
        (np.empty(0), "too few"),
    ],
)
def test_what_cannot_be_fitted_is_said(returns: np.ndarray, says: str) -> None:
    fitted = garch.fit_garch(returns)
    assert isinstance(fitted, str)
    assert says in fitted


@pytest.mark.parametrize(
    ("flag", "values", "says"),
    [
        (4, (0.1, 0.1, 0.8, 6.0), "did not converge"),
        (0, (float("nan"), 0.1, 0.8, 6.0), "did not converge"),
        (0, (0.0, 0.1, 0.9, 6.0), "not stationary"),
        (0, (0.1, 0.2, 0.85, 6.0), "not stationary"),
    ],
)
def test_a_failed_fit_is_said(monkeypatch: pytest.MonkeyPatch, flag: int, values: tuple[float, ...], says: str) -> None:
    import arch

    params = pd.Series(values, index=["omega", "alpha[1]", "beta[1]", "nu"])
    result = SimpleNamespace(params=params, convergence_flag=flag)
    monkeypatch.setattr(arch, "arch_model", lambda *_, **__: SimpleNamespace(fit=lambda **_: result))
    fitted = garch.fit_garch(np.random.default_rng(0).standard_normal(500))
    assert isinstance(fitted, str)
    assert says in fitted


def test_the_same_returns_give_the_same_numbers() -> None:
    returns = garch_returns(800, alpha=0.1, beta=0.85, nu=5, seed=9)
    assert garch.fit_garch(returns) == garch.fit_garch(returns.copy())
