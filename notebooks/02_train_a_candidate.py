# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Train a candidate
#
# From an idea to a gated release: look at it on training sessions, train it for good, and ask the gate. The
# functions are the ones that the scheduled flows call, so whatever passes here is as good as what passes there.
#
# It needs a stack that is up (`make up`). After `make demo`, set `HEADFRAME_HOME` to `var/demo` before starting
# Jupyter: there the reference miner is live already, so the gate has a champion to compare with.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Image, display

from flows.gate import gate
from flows.ingest import ingest
from flows.progress import quiet
from flows.retrain import retrain
from flows.split import make_split, when
from flows.training import first_look, inner_cut, training_data
from infra.prices import price_store
from infra.settings import load_settings
from triton_models.synth_paths.train import fit

SLOT = "synth-high"
settings = load_settings()
ingest(settings)
store = price_store(settings)
split = make_split(store, SLOT)
print(
    f"{SLOT}: a model may see what was known before {when(split.cut)} UTC; {len(split.held_out)} sessions are held out"
)

# %% [markdown]
# ## A first look
#
# The last of the training sessions is set aside, and each idea is fitted on what came before it. Choose here,
# as often as you like: nothing held out is touched. So few windows carry no interval, so a small difference
# means nothing yet.

# %%
aside, begins = inner_cut(split)
data = training_data(store, begins)
ideas = {
    "reference Gaussian": fit(SLOT, "gaussian", data),
    "the same, sigma x 1.5": fit(SLOT, "gaussian", data, sigma_scale=1.5),
    "GARCH-t, time of day": fit(SLOT, "garch-t", data),
}
looks = {name: first_look(store, split, params, quiet) for name, params in ideas.items()}
print(f"{aside} session set aside from {when(begins)} UTC, {len(looks['reference Gaussian'].replays)} replays")
pd.DataFrame(
    {"idea": name, "mean CRPS (bps)": look.total, "against the reference (%)": look.change_pct}
    for name, look in looks.items()
).round(2)

# %% [markdown]
# What the paths of each idea look like for the last of these replays, and what came true:

# %%
figure, axes = plt.subplots(1, len(looks), figsize=(12, 3.2), sharey=True)
for axis, (name, look) in zip(axes, looks.items(), strict=True):
    replay = look.replays[-1]
    minutes = np.arange(replay.truth.size) * split.grid.increment / 60
    for low, high in ((0.01, 0.99), (0.05, 0.95), (0.25, 0.75)):
        axis.fill_between(minutes, *np.quantile(look.last_paths, [low, high], axis=0), color="tab:blue", alpha=0.2)
    axis.plot(minutes, replay.truth, color="black", linewidth=1)
    axis.set(title=name, xlabel="minutes")
axes[0].set_ylabel(f"{replay.asset}, 50, 90 and 98 % of the paths")
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Train it
#
# `retrain` fits on everything before the cut, bundles the release, publishes it to S3, logs the run and the
# registered model to MLflow, and writes the ledger. The release's name comes from its content: the same data
# and numbers give the same release.

# %%
trained = retrain(settings, SLOT, model="garch-t", actor="notebook")
print(f"{trained.release}{' (known before)' if trained.existing else ''}, trained in {trained.seconds:.1f} s")
print("MLflow:", trained.run_url)
for name in sorted(trained.plots):
    display(Image(trained.plots[name]))

# %% [markdown]
# ## Ask the gate
#
# Candidate and live champion answer the same held-out requests in a Triton of their own, and the subnet's
# formula scores both. A slot without a live release has no champion, and then the score is skipped.

# %%
result = gate(settings, SLOT, trained.release, actor="notebook")
print(f"verdict: {result.verdict}   ({result.summary}; {result.seconds:.1f} s)")
with pd.option_context("display.max_colwidth", None):
    display(pd.DataFrame({"check": one.name, "verdict": one.verdict, "reason": one.reason} for one in result.checks))
if result.plot:
    display(Image(result.plot))

# %% [markdown]
# The held-out sessions have now been looked at. Ten more tries, and the best of them will pass by luck: choose
# above, gate once.
#
# If the verdict is `pass`, roll it out: `headframe rollout start --slot synth-high`.
