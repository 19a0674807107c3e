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
# # Prices and volatility
#
# What do the real bars look like that the models are fitted on and judged by? Three questions decide which
# model is worth a try: does volatility depend on the time of day, are the tails heavier than a Gaussian's, and
# how much of a prompt can the bars score?
#
# It needs a stack that is up (`make up`), and says so if there is none. `HEADFRAME_HOME` chooses another one,
# such as the demo's `var/demo`.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats

from flows.ingest import ingest
from flows.split import GRIDS, make_split
from infra.market_hours import NEW_YORK
from infra.prices import price_store
from infra.settings import load_settings

settings = load_settings()
ingest(settings)  # bars that are there already are not written again
store = price_store(settings)
pd.DataFrame(
    {
        "asset": one.asset,
        "source": one.source,
        "step (s)": one.step,
        "bars": one.rows,
        "from": pd.Timestamp(one.first, unit="s"),
        "to": pd.Timestamp(one.last, unit="s"),
        "simulated": one.simulated,
        "proxy": one.proxy,
    }
    for one in store.series()
)

# %% [markdown]
# `AAPLX` is a token that trades round the clock; the bars are of the share behind it, in New York's regular
# hours. So they are real (`simulated` is false) and a stand-in (`proxy` is true). The notes of each series tell
# its gaps and whatever was dropped.

# %%
ASSET = "AAPLX"
BPS = 1e4  # basis points: returns below are 1/100 of a percent
for one in (one for one in store.series() if not one.simulated):
    print(f"{one.asset} {one.step} s:", *(one.notes or ["no gap"]), sep="\n    ")


# %%
def returns(step: int) -> pd.DataFrame:
    """Log returns (bps) between neighbouring bars of one session, with the New York time of day (hours)."""
    bars = store.bars(ASSET, step)
    opens = pd.to_datetime(bars["time"], unit="s", utc=True).dt.tz_convert(NEW_YORK)
    change = np.log(bars["close"]).diff() * BPS
    inside = opens.dt.date == opens.dt.date.shift()
    return pd.DataFrame({"hour": opens.dt.hour + opens.dt.minute / 60, "bps": change})[inside]


def overnight() -> pd.Series:
    """Log returns (bps) from a session's last close to the next session's first open."""
    bars = store.bars(ASSET, 3600)
    day = pd.to_datetime(bars["time"], unit="s", utc=True).dt.tz_convert(NEW_YORK).dt.date
    change = np.log(bars["open"]) - np.log(bars["close"].shift())
    return change[day != day.shift()].dropna() * BPS


minutes, hours, nights = returns(60), returns(3600), overnight()
print(f"{len(minutes)} one-minute, {len(hours)} hourly and {len(nights)} overnight returns")

# %% [markdown]
# ## Volatility by time of day
#
# The root mean square of the returns, per half hour of the session for minutes and per bar for hours. The bar
# that opens the session is missing on the right, because its return would include the night; the night has a
# line of its own.


# %%
def rms(values: pd.Series) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


by_half_hour = minutes.groupby((minutes["hour"] * 2).astype(int) / 2)["bps"].agg(rms)
by_hour = hours.groupby("hour")["bps"].agg(rms)

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6))
left.bar(by_half_hour.index + 0.25, by_half_hour, width=0.45)
left.axhline(rms(minutes["bps"]), color="black", linewidth=1, linestyle="--", label="whole session")
left.set(title=f"One-minute returns, {ASSET}", xlabel="New York time (h)", ylabel="bps")
left.legend()
right.bar(by_hour.index + 0.5, by_hour, width=0.9)
right.axhline(rms(nights), color="tab:red", linewidth=1, linestyle="--", label="one night")
right.set(title=f"Hourly returns, {ASSET}", xlabel="New York time (h)", ylabel="bps")
right.legend()
figure.tight_layout()
plt.show()
print(f"busiest half hour / quietest: {by_half_hour.max() / by_half_hour.min():.1f} times")

# %% [markdown]
# ## Tails
#
# How often is a return beyond k standard deviations? A Gaussian leaves the plot quickly; a Student t with few
# degrees of freedom does not. Part of the weight is the time of day itself, so the second curve divides each
# return by the volatility of its own half hour first.

# %%
k = np.linspace(0, 6, 61)
own = minutes["bps"] / by_half_hour.reindex((minutes["hour"] * 2).astype(int) / 2).to_numpy()
flat = minutes["bps"] / rms(minutes["bps"])
degrees = stats.t.fit(own, floc=0)[0]

figure, axis = plt.subplots(figsize=(6.5, 3.6))
axis.semilogy(k, [(abs(flat) > x).mean() or np.nan for x in k], label="one sigma for the session")
axis.semilogy(k, [(abs(own) > x).mean() or np.nan for x in k], label="sigma by time of day")
axis.semilogy(k, 2 * stats.norm.sf(k), "k--", linewidth=1, label="Gaussian")
axis.set(title=f"Share of one-minute returns beyond k sigma, {ASSET}", xlabel="k", ylim=(1 / len(minutes) / 2, 1.2))
axis.legend()
plt.show()
print(f"excess kurtosis {stats.kurtosis(flat):.1f}, by time of day {stats.kurtosis(own):.1f}")
print(f"a Student t fitted to the latter has {degrees:.1f} degrees of freedom")

# %% [markdown]
# ## What the bars can score
#
# A prompt is scored on the price changes over several intervals, and only where a price is known at both ends.
# Inside a session the minute bars score a whole hour. Of a day in steps of five minutes the hourly bars know a
# handful of instants, so little of `synth-low` can be judged.

# %%
for slot, grid in GRIDS.items():
    split = make_split(store, slot)
    starts = [start for session in split.held_out for start in session.starts]
    truth = store.truth(ASSET, starts[0], grid.increment, grid.length, steps=(grid.step,))
    print(
        f"{slot}: {len(split.train)} sessions to train on, {len(split.held_out)} held out with {len(starts)} starts; "
        f"{np.isfinite(truth).sum()} of {len(truth)} prices known"
    )

# %% [markdown]
# So a model with volatility by time of day and heavy tails is worth a try, above all for `synth-high`:
# `02_train_a_candidate` does it.
