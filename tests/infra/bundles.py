"""Small bundles for the tests: the family's own, and ones whose model is wrong in a chosen way."""

from __future__ import annotations

from pathlib import Path

from infra.releases import Release, seal
from triton_models.synth_paths.release import export
from triton_models.synth_paths.train import fit

BROKEN = {
    "nan": ("paths[:, 0] = price", "paths[:, 0] = price\n    growth[1, 1] = np.nan", "not finite"),
    "negative": ("paths[:, 0] = price", "paths[:, 0] = price\n    growth *= -1", "not positive"),
    "shape": ("steps = length // increment\n", "steps = length // increment - 1\n", "has shape"),
    "restless": ("rng = np.random.Generator(np.random.Philox(key=seed))", "rng = np.random.default_rng()", "differs"),
}
"""Name: (text of model.py, what it becomes, what the warm-up says of it)."""


def sealed(
    models: Path, slot: str = "synth-high", *, sigma_scale: float = 1.0, replace: tuple[str, str] = ("", "")
) -> Release:
    """A Gaussian release below `models`, with a text of model.py replaced."""
    folder = models / f".making-{slot}"
    export(fit(slot, "gaussian", {}, sigma_scale=sigma_scale), folder)
    model = folder / "1" / "model.py"
    text = model.read_text()
    assert replace[0] in text
    model.write_text(text.replace(*replace) if replace[0] else text)
    return seal(folder, slot=slot, family="synth_paths", data_digest="", rebuild={"sigma_scale": sigma_scale})
