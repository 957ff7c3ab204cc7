"""Recorded sessions of 2021, frame by frame: what came out, how much of it, and that nothing was refused."""

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pytest

from openoutcry.events import Candle, DepthDelta, Quote, Side, Trade
from openoutcry.instrument import Kind
from openoutcry.venues import VENUES
from openoutcry.venues.venue import Answer, Ask, Query, Venue

NOW_NS = 1_634_000_000_000_000_000
SPOT_SYMBOLS = ("NKNUSDT", "BLZETH", "LRCBTC", "RUNEEUR")


def taught(name: str, folder: Path) -> Venue:
    """The venue with the listing recorded at the same time; spot has none recorded, its pairs are assumed."""
    venue = VENUES[name]()
    if name == "binance":
        venue.learn([assumed for symbol in SPOT_SYMBOLS if (assumed := venue.assume(symbol))])
        return venue
    with gzip.open(folder / "frames" / f"{name.upper()}.0.gz", "rt") as lines:
        _, _, told = next(iter(lines)).rstrip("\n").partition(" -> ")
    body = told.partition(": ")[2].encode()
    page = venue.page(Ask(query=Query.INSTRUMENTS), Answer(200, {}, body, NOW_NS))
    assert page.unread == 0
    venue.learn(page.instruments)
    return venue


def frames(name: str, folder: Path) -> Iterator[bytes]:
    with gzip.open(folder / "frames" / f"{name.upper()}.ws.1.0.gz", "rt") as lines:
        for line in list(lines)[1:]:
            if line.strip():
                yield line.rstrip("\n").partition(": ")[2].encode()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("binance", {DepthDelta: 177, Quote: 84, Trade: 2, Candle: 2}),
        ("binance_futures", {DepthDelta: 764, Quote: 613, Trade: 91, Candle: 67}),
        ("binance_delivery", {DepthDelta: 2047, Quote: 2240, Trade: 51, Candle: 33}),
    ],
)
def test_every_recorded_frame_becomes_one_event(name: str, expected: dict[type, int], recordings: Path) -> None:
    venue = taught(name, recordings)
    said = [venue.decode(frame, NOW_NS) for frame in frames(name, recordings)]
    assert all(len(each) == 1 for each in said)
    assert Counter(type(each[0]) for each in said) == expected


def test_recorded_listings(recordings: Path) -> None:
    kinds = {}
    for name in ("binance_futures", "binance_delivery"):
        listing = taught(name, recordings)._listing.values()  # type: ignore[attr-defined]
        kinds[name] = Counter(instrument.kind for instrument in listing)
    assert kinds == {
        "binance_futures": {Kind.PERPETUAL: 120, Kind.FUTURE: 2},
        "binance_delivery": {Kind.PERPETUAL: 18, Kind.FUTURE: 18},
    }


def test_a_recorded_trade_of_each_market(recordings: Path) -> None:
    first = {}
    for name in ("binance", "binance_futures", "binance_delivery"):
        venue = taught(name, recordings)
        first[name] = next(
            event
            for frame in frames(name, recordings)
            for event in venue.decode(frame, NOW_NS)
            if isinstance(event, Trade)
        )
    assert first == {
        "binance": Trade(
            "binance:NKNUSDT", 1_633_998_523_963_000_000, NOW_NS, 15_683_430, 15_683_430, Side.BUY,
            Decimal("0.35280000"), Decimal("58.00000000"),
        ),
        "binance_futures": Trade(
            "binance_futures:CTKUSDT", 1_626_992_741_421_000_000, NOW_NS, 16_599_292, 16_599_292, Side.BUY,
            Decimal("1.01100"), Decimal(10),
        ),
        "binance_delivery": Trade(
            "binance_delivery:BCHUSD_PERP", 1_626_916_403_852_000_000, NOW_NS, 11_285_749, 11_285_749, Side.SELL,
            Decimal("427.91"), Decimal("0.07010820"), 1, Decimal(30), Decimal(3),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["binance", "binance_futures", "binance_delivery"])
def test_recorded_aggregate_ids_have_no_holes_and_depth_chains(name: str, recordings: Path) -> None:
    venue = taught(name, recordings)
    assert venue.limits.trade_ids == "one"
    ids: dict[str, list[int]] = defaultdict(list)
    deltas: dict[str, list[DepthDelta]] = defaultdict(list)
    for frame in frames(name, recordings):
        for event in venue.decode(frame, NOW_NS):
            if isinstance(event, Trade):
                assert isinstance(event.id, int)
                ids[event.instrument].append(event.id)
            elif isinstance(event, DepthDelta):
                deltas[event.instrument].append(event)
    assert all(seen == list(range(seen[0], seen[0] + len(seen))) for seen in ids.values())
    for chain in deltas.values():
        for before, after in pairwise(chain):
            assert (after.previous_seq == before.seq) if name != "binance" else (after.first_seq == before.seq + 1)


@pytest.mark.parametrize(("name", "compared"), [("binance_futures", 33), ("binance_delivery", 5)])
def test_recorded_trades_sum_to_what_the_venues_own_candle_grew_by(name: str, compared: int, recordings: Path) -> None:
    venue = taught(name, recordings)
    trades: dict[str, list[tuple[int, int, Trade]]] = defaultdict(list)
    candles: dict[tuple[str, int], list[tuple[int, Candle]]] = defaultdict(list)
    for frame in frames(name, recordings):
        data = json.loads(frame)["data"]
        for event in venue.decode(frame, NOW_NS):
            if isinstance(event, Trade):
                trades[event.instrument].append((data["f"], data["l"], event))
            elif isinstance(event, Candle):
                candles[event.instrument, event.open_ns].append((data["k"]["L"], event))
    found = 0
    for (instrument, _), grown in candles.items():
        for (last_before, before), (last, after) in pairwise(grown):
            between = [trade for first, end, trade in trades[instrument] if last_before < first and end <= last]
            count = sum(trade.count for trade in between)
            # Candles overtake trades, and cut aggregates: only stretches of which every match was seen can be compared.
            if not between or count != after.trades - before.trades:
                continue
            found += 1
            values = [trade.price * trade.size if trade.value is None else trade.value for trade in between]
            assert sum(values) == after.quote_volume - before.quote_volume
            off = abs(sum(trade.size for trade in between) - (after.volume - before.volume))
            # COINM rounds the sum of its coins, we each trade's: they differ by half a smallest coin a trade at most.
            assert off <= (Decimal("0.000000005") * (count + 2) if name == "binance_delivery" else 0)
    assert found == compared
