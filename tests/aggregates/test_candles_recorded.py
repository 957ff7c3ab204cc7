"""Recorded trades of Binance futures against the venue's own candles of the same session."""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

from openoutcry.aggregates.candles import Candles
from openoutcry.events import NS, Candle, Side, Trade, open_of
from openoutcry.venues import VENUES

FRAME = re.compile(r"(\d+\.\d+): (\{.*)")
SYMBOL = re.compile(r'"s":"(\w+)"')
Numbers = tuple[object, ...]


def spoken(folder: Path) -> Iterator[Trade | Candle]:
    venue = VENUES["binance_futures"]()
    with gzip.open(folder / "frames" / "BINANCE_FUTURES.ws.1.0.gz", "rt") as lines:
        frames = [match.groups() for line in lines if (match := FRAME.match(line))]
    symbols = {symbol for _, frame in frames for symbol in SYMBOL.findall(frame)}
    venue.learn([instrument for instrument in map(venue.assume, symbols) if instrument is not None])
    for received_s, frame in frames:
        for event in venue.decode(frame.encode(), int(float(received_s) * NS)):
            if isinstance(event, (Trade, Candle)):
                yield event


def numbers(candle: Candle) -> Numbers:
    return (candle.open, candle.high, candle.low, candle.close, candle.volume, candle.quote_volume, candle.trades)


def test_what_grows_from_recorded_trades_is_what_the_venue_says_itself(recordings: Path) -> None:
    """The venue's growing candle is compared wherever both have counted the same number of matches.

    The session begins inside a minute, so only its second minute is known from its opening. A candle of the venue may
    be cut inside what it later reports as one trade; such a moment is one that we never see.
    """
    candles = Candles()
    ours: dict[tuple[str, int, int], Numbers] = {}
    theirs: dict[tuple[str, int, int], Numbers] = {}
    for event in spoken(recordings):
        if isinstance(event, Trade):
            candles.on_trade(event)
            grown = candles.growing(event.instrument, 60)
            if grown is not None:
                ours[grown.instrument, grown.open_ns, grown.trades] = numbers(grown)
        elif event.interval_s == 60:
            theirs[event.instrument, event.open_ns, event.trades] = numbers(event)
    compared = ours.keys() & theirs.keys()
    assert {at: ours[at] for at in compared} == {at: theirs[at] for at in compared}
    assert len(compared) == 15
    assert len({instrument for instrument, _, _ in compared}) == 3


def test_a_minute_joined_late_closes_with_the_candle_of_the_venue_alone(recordings: Path) -> None:
    candles = Candles()
    closed: list[Candle] = []
    told: list[Candle] = []
    for event in spoken(recordings):
        if isinstance(event, Trade):
            closed += candles.on_trade(event)
            closed += candles.on_time("binance_futures", event.event_ns)
        elif event.closed:
            told.append(event)
            closed += candles.on_venue_candle(event)
    assert len(told) == 4
    assert {c.instrument: numbers(c) for c in closed} == {c.instrument: numbers(c) for c in told}
    assert {(c.side, c.interval_s, c.origin) for c in closed} == {(Side.BOTH, 60, "venue")}
    assert {c.open_ns for c in closed} == {open_of(closed[0].open_ns, 60)}
    assert candles.disagreed == 4
