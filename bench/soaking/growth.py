"""Whether memory grows: told apart from a part that breathes, filling up and giving back again and again."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FLOORS_MB, FLOORS_SHARE = 4.0, 0.5
"""Floors may rise so much over half a run, or by so much of a breath, whichever is more.

4 MB are 24 MB an hour in a run of 20 minutes, and 8 in one of 60.
"""
LINE_MB, LINE_SHARE = 15.0, 0.05
"""A line may rise so much over half a run, or by so much of the last size, whichever is more."""
_GIVEN_BACK, _LATE = 1.25, 0.25
_LEAST = 12
"""Samples below which a quarter has no floor."""

_Floats = npt.NDArray[np.float64]


class Growth(NamedTuple):
    """How a part's memory went, in megabytes."""

    last: float
    line: float
    """What a line fitted through the second half rises by."""
    floors: float
    """Twice the smaller of the last two steps between the floors of the second, third and fourth quarter.

    A steady leak lifts every floor, so this is what it adds in half a run. What settles after a start lifts the last
    one no more, and what gives back at least once in half a run cannot lift both.
    """
    breath: float
    """How far the floor of a quarter lies below its median, the first left out, at the most."""
    given_back: float
    """The deepest fall from a peak, the first quarter left out."""
    late: float
    """What the last quarter's peak adds to the third's."""

    def leaks(self, *, strict: bool = False) -> bool:
        """Whether the part grew: its floors rose, or a line did, by more than the part ever gave back, and to the end.

        The second finds what began too late for the floors, and lets off one step that is followed by a quarter
        without another. `strict` takes the line's word alone.
        """
        limit = max(LINE_MB, LINE_SHARE * self.last)
        excused = self.line <= _GIVEN_BACK * self.given_back or self.late <= _LATE * limit
        by_line = self.line > limit and (strict or not excused)
        return by_line or self.floors > max(FLOORS_MB, FLOORS_SHARE * self.breath)


def growth(times: _Floats, sizes: _Floats) -> Growth:
    """From samples (seconds, megabytes) at even distances; a single odd sample moves no floor and no peak."""
    if not len(sizes):
        return Growth(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    smooth = _medians_of_three(sizes)
    floors = breath = late = 0.0
    if len(sizes) >= _LEAST:
        _, *quarters = np.array_split(smooth, 4)
        second, third, fourth = (float(quarter.min()) for quarter in quarters)
        floors = 2.0 * min(third - second, fourth - third)
        breath = max(float(np.median(quarter) - quarter.min()) for quarter in quarters)
        late = float(quarters[2].max() - quarters[1].max())
    settled = smooth[len(smooth) // 4 :]
    given_back = float((np.maximum.accumulate(settled) - settled).max())
    line = _rise(times[len(times) // 2 :], sizes[len(sizes) // 2 :])
    return Growth(float(sizes[-1]), line, floors, breath, given_back, late)


def _rise(times: _Floats, sizes: _Floats) -> float:
    """What the least-squares line rises by, from the first sample to the last."""
    if len(times) < 3:
        return 0.0
    slope = float(np.polynomial.Polynomial.fit(times, sizes, 1).convert().coef[-1])
    return slope * float(times[-1] - times[0])


def _medians_of_three(values: _Floats) -> _Floats:
    if len(values) < 3:
        return values
    middle = np.median(np.lib.stride_tricks.sliding_window_view(values, 3), axis=1)
    return np.concatenate((middle[:1], middle, middle[-1:]))
