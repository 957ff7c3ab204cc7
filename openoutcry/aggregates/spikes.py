"""Open interest or volume of a closed bar far above the bars before it.

Compared are the change in open interest over the bar (USD) and the bar's volume (quote currency), each with the mean and
sample deviation of the bars before it; the bar itself is not among them, so its z-score has no ceiling. Only rises count.

    marks of open interest   |--------|--------|--------|--------|     one at every boundary: a change needs two
    candles                       1        2        3      newest
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev

import msgspec

from openoutcry.events import NS, Candle, OpenInterest, Spike, open_of

BARS_BEFORE_MIN = 5
ANNOUNCED_MAX = 10_000


class Threshold(msgspec.Struct, frozen=True):
    """When a bar of `interval_s` is a spike: `z_min`, and the least open interest and volume (USD) worth a word."""

    interval_s: int
    z_min: float
    open_interest_usd_min: float
    volume_usd_min: float


THRESHOLDS = (
    Threshold(300, 3.0, 500_000, 100_000),
    Threshold(900, 2.5, 1_000_000, 250_000),
    Threshold(3_600, 2.0, 2_500_000, 1_000_000),
)


def find_spike(
    interests: Iterable[OpenInterest],
    candles: Iterable[Candle],
    threshold: Threshold,
    received_ns: int,
    bars_before_min: int = BARS_BEFORE_MIN,
) -> Spike | None:
    """The spike in the newest closed bar that both series tell about; None where there is none.

    `interests` are samples at the boundaries of bars, with their `value`; `candles` those of the same instrument and
    interval, growing ones are left out. Either z-score at its threshold makes a spike, both make it confirmed; a score
    is 0 with fewer than `bars_before_min` bars before it, or where those do not differ.
    """
    step_ns = threshold.interval_s * NS
    closed = {candle.open_ns: candle for candle in candles if candle.closed}
    marks = {open_of(sample.event_ns, threshold.interval_s): sample for sample in interests if sample.value is not None}
    newest_ns = max((open_ns for open_ns in closed if open_ns + step_ns in marks), default=None)
    if newest_ns is None:
        return None
    bar, after = closed[newest_ns], marks[newest_ns + step_ns]
    assert after.value is not None
    if after.value < threshold.open_interest_usd_min or bar.quote_volume < threshold.volume_usd_min:
        return None
    changes = _changes(marks, step_ns)
    z_open_interest = _score(changes, newest_ns, bars_before_min)
    volumes = {open_ns: float(candle.quote_volume) for open_ns, candle in closed.items()}
    z_volume = _score(volumes, newest_ns, bars_before_min)
    high = (z_open_interest >= threshold.z_min, z_volume >= threshold.z_min)
    if not any(high):
        return None
    return Spike(
        bar.instrument,
        threshold.interval_s,
        newest_ns,
        received_ns,
        z_open_interest,
        z_volume,
        all(high),
        bar.close,
        after.value,
        bar.quote_volume,
    )


class Spikes:
    """Lets each spike through once: one alert per instrument, interval and bar. Remembers a bounded number of bars."""

    def __init__(
        self,
        thresholds: Sequence[Threshold] = THRESHOLDS,
        *,
        bars_before_min: int = BARS_BEFORE_MIN,
        announced_max: int = ANNOUNCED_MAX,
    ) -> None:
        self.thresholds: Mapping[int, Threshold] = {threshold.interval_s: threshold for threshold in thresholds}
        self._bars_before_min = bars_before_min
        self._announced_max = announced_max
        self._announced: OrderedDict[tuple[str, int], int] = OrderedDict()

    def check(
        self, interests: Iterable[OpenInterest], candles: Iterable[Candle], interval_s: int, received_ns: int
    ) -> Spike | None:
        """The spike in the newest closed bar, unless that bar (or a newer one) was announced before."""
        spike = find_spike(interests, candles, self.thresholds[interval_s], received_ns, self._bars_before_min)
        if spike is None:
            return None
        key = (spike.instrument, interval_s)
        if self._announced.get(key, -1) >= spike.open_ns:
            return None
        self._announced[key] = spike.open_ns
        self._announced.move_to_end(key)
        if len(self._announced) > self._announced_max:
            self._announced.popitem(last=False)
        return spike


def _changes(marks: Mapping[int, OpenInterest], step_ns: int) -> dict[int, float]:
    # Bars whose opening or closing mark is missing have no change, rather than a wrong one.
    changes: dict[int, float] = {}
    for mark_ns, sample in marks.items():
        before = marks.get(mark_ns - step_ns)
        if before is not None and before.value is not None and sample.value is not None:
            changes[mark_ns - step_ns] = float(sample.value - before.value)
    return changes


def _score(bars: Mapping[int, float], newest_ns: int, bars_before_min: int) -> float:
    newest = bars.get(newest_ns)
    before = [value for open_ns, value in bars.items() if open_ns < newest_ns]
    if newest is None or len(before) < max(2, bars_before_min):
        return 0.0
    spread = stdev(before)
    return (newest - fmean(before)) / spread if spread > 0 else 0.0
