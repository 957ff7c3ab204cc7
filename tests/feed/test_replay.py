"""Recorded frames give the events that live ones would have given."""

import asyncio
import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from openoutcry.clock import ManualClock
from openoutcry.errors import Invalid, UnknownVenue
from openoutcry.events import NS, Candle, DepthDelta, DepthSnapshot, Event, Side, Trade
from openoutcry.feed.depth import Depth, Outcome
from openoutcry.feed.recorder import Recorder, record_listing
from openoutcry.feed.recording import target
from openoutcry.feed.replay import PAUSE_S_MAX, Replay, Summary, as_json
from openoutcry.venues import VENUES
from openoutcry.venues.binance import BinanceSpot
from openoutcry.venues.venue import Answer, Ask, Query, Request

START_NS = 1_737_918_843_000_000_000


def played(*files: Path, venue: str | None = None) -> tuple[list[Event], Summary]:
    replay = Replay(files, ManualClock(), venue=venue)
    return list(replay), replay.summary


def trade(tid: int, coin: str = "BTC", price: str = "5") -> bytes:
    row = {"coin": coin, "side": "B", "px": price, "sz": "1", "time": 1_737_918_794_873, "tid": tid}
    return msgspec.json.encode({"channel": "trades", "data": [row]})


def write(path: Path, lines: Iterable[tuple[int, bytes]]) -> Path:
    path.write_bytes(b"".join(b"%d %s\n" % line for line in lines))
    return path


# Our own recordings


async def test_what_was_recorded_is_replayed_into_the_same_events(tmp_path: Path, recordings: Path) -> None:
    original = recordings / "frames" / "HYPERLIQUID_20250126.gz"
    recorder = Recorder("hyperliquid", tmp_path, ManualClock(START_NS), file_bytes_max=2_000)
    with gzip.open(original, "rb") as lines:
        for line in lines:
            received, _, frame = line.rstrip(b"\n").partition(b" ")
            recorder.frame("ws", int(received), frame)
            await recorder.flush()
    await recorder.close()
    assert len(recorder.files) > 1
    first, first_summary = played(original)
    again, again_summary = played(*recorder.files[::-1])
    assert again == first
    assert again_summary.events == first_summary.events == {"Trade": 64, "DepthSnapshot": 46}
    assert again_summary.unreadable == again_summary.damaged == again_summary.duplicates == 0


async def test_a_recorded_listing_teaches_the_venue_what_it_taught_it_live(tmp_path: Path) -> None:
    tokens = [{"name": "USDC", "index": 0, "szDecimals": 8}, {"name": "HYPE", "index": 1, "szDecimals": 2}]
    bodies = {
        "meta": {"universe": [{"name": "BTC", "szDecimals": 5}]},
        "spotMeta": {"universe": [{"name": "@1", "tokens": [1, 0]}], "tokens": tokens},
        "allPerpMetas": [{"universe": [{"name": "xyz:NVDA", "szDecimals": 3}]}],
    }

    async def send(request: Request) -> Answer:
        kind = msgspec.json.decode(request.body or b"")["type"]
        # Some venues write their answers on many lines.
        return Answer(200, {}, msgspec.json.format(msgspec.json.encode(bodies[kind]), indent=1), START_NS)

    recorder = Recorder("hyperliquid", tmp_path, ManualClock(START_NS))
    listed = await record_listing(recorder, VENUES["hyperliquid"](), send)
    recorder.frame("ws", START_NS + 1, trade(1))
    await recorder.close()
    assert [i.symbol for i in listed] == ["BTC", "@1", "xyz:NVDA"]
    _, summary = played(*recorder.files)
    assert (summary.listed, summary.answers, summary.events) == (3, 3, {"Trade": 1})


async def test_a_file_cut_short_gives_what_is_whole_and_names_the_rest(tmp_path: Path) -> None:
    recorder = Recorder("hyperliquid", tmp_path, ManualClock(START_NS))
    for tid in range(5):
        recorder.frame("ws", START_NS + tid, trade(tid))
        await recorder.flush()
    await recorder.close()
    (path,) = recorder.files
    path.write_bytes(path.read_bytes()[:-12])
    events, summary = played(path)
    assert [e.id for e in events if isinstance(e, Trade)][:4] == [0, 1, 2, 3]
    assert summary.damaged == 1
    assert (summary.faults[0].file, summary.faults[0].why) == (path.name, "cut short")


class Resetting(BinanceSpot):
    """Notes when its deltas begin anew."""

    def __init__(self) -> None:
        super().__init__()
        self.resets: list[str] = []

    def reset(self, endpoint: str) -> None:
        self.resets.append(endpoint)


async def test_where_a_connection_was_opened_deltas_begin_anew_and_recorded_snapshots_are_events(
    tmp_path: Path,
) -> None:
    venue = Resetting()
    recorder = Recorder("binance", tmp_path, ManualClock(START_NS))
    asked = venue.request(Ask(query=Query.DEPTH, symbol="BTCUSDT"))
    for at_ns in (START_NS, START_NS + 9 * NS):
        recorder.opened("market", at_ns)
        recorder.sent("market", at_ns + 1, b'{"method":"SUBSCRIBE"}')
        recorder.told(asked, at_ns + 2, b'{"lastUpdateId":7,"bids":[["1","2"]],"asks":[]}')
    recorder.told(asked, START_NS + 20 * NS, b'{"code":-1121,"msg":"Invalid symbol."}')
    await recorder.close()
    replay = Replay(recorder.files, ManualClock(), venues={"binance": lambda: venue})
    snapshots = list(replay)
    level = (Decimal(1), Decimal(2))
    assert [type(e) for e in snapshots] == [DepthSnapshot, DepthSnapshot]
    assert snapshots[1] == DepthSnapshot(
        "binance:BTCUSDT", START_NS + 9 * NS + 2, START_NS + 9 * NS + 2, (level,), (), 7
    )
    assert venue.resets == ["market", "market"]
    summary = replay.summary
    assert (summary.sent, summary.answers, summary.events) == (2, 3, {"DepthSnapshot": 2})
    # What it would not tell is named.
    assert summary.skipped == {"depth": 1}
    assert len(summary.faults) == 1


# Whose frames, and what they say


@pytest.mark.parametrize("name", ["HYPERLIQUID_20250126.gz", "hyperliquid.x", "HYPERLIQUID.ws.1.0.gz"])
def test_the_venue_is_told_by_the_name_of_the_file(tmp_path: Path, name: str) -> None:
    _, summary = played(write(tmp_path / name, [(START_NS, trade(1))]))
    assert summary.venues == ["hyperliquid"]


@pytest.mark.parametrize("name", ["BITMEX.ws.28.0.gz", "HYPERLIQUIDITY.gz", "hyperliquid_testnet.gz", "frames"])
def test_a_venue_that_is_not_told_must_be_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, [(START_NS, trade(1))])
    with pytest.raises(UnknownVenue):
        played(path)
    with pytest.raises(UnknownVenue):
        played(path, venue="nobody")
    events, _ = played(path, venue="hyperliquid")
    assert len(events) == 1


def test_a_replay_needs_files() -> None:
    with pytest.raises(Invalid):
        played()


def test_repeated_trades_are_dropped_by_id_within_their_instrument(tmp_path: Path) -> None:
    path = write(
        tmp_path / "hyperliquid",
        [(START_NS + n, f) for n, f in enumerate([trade(1), trade(1), trade(1, "ETH"), trade(2)])],
    )
    events, summary = played(path)
    assert [(e.instrument, e.id) for e in events if isinstance(e, Trade)] == [
        ("hyperliquid:BTC", 1),
        ("hyperliquid:ETH", 1),
        ("hyperliquid:BTC", 2),
    ]
    assert (summary.duplicates, summary.events) == (1, {"Trade": 3})


def test_what_cannot_be_read_is_counted_named_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "hyperliquid"
    path.write_bytes(
        b'nonsense\n%d %s\n%d %s\n%d {"channel":"allMids"}\n%d {"channel":"pong"}\n'
        % (START_NS, trade(1, price="NaN"), START_NS + NS, trade(2), START_NS + 2 * NS, START_NS + 3 * NS)
    )
    events, summary = played(path)
    assert len(events) == 1
    assert (summary.frames, summary.unreadable, summary.damaged) == (4, 1, 1)
    assert (summary.skipped, summary.signals) == ({"channel": 1}, {"alive": 1})
    assert [(f.line, f.head[:8]) for f in summary.faults] == [(1, "nonsense"), (2, '{"channe')]
    assert summary.span_s == 3.0
    told = "\n".join(summary.lines())
    assert "unreadable" in told
    assert "nonsense" in told


def test_files_are_played_in_the_order_of_their_receive_times(tmp_path: Path) -> None:
    one = write(tmp_path / "hyperliquid.1", [(START_NS + n * NS, trade(n)) for n in (0, 3, 4)])
    two = write(tmp_path / "hyperliquid.2", [(START_NS + n * NS, trade(n)) for n in (1, 2, 5)])
    events, _ = played(two, one)
    assert [e.id for e in events if isinstance(e, Trade)] == [0, 1, 2, 3, 4, 5]


def test_an_event_is_one_line_of_json_led_by_its_type(tmp_path: Path) -> None:
    events, _ = played(write(tmp_path / "hyperliquid", [(START_NS, trade(1))]))
    told = json.loads(as_json(events[0]))
    assert list(told)[:2] == ["event", "instrument"]
    assert (told["event"], told["price"]) == ("Trade", "5")


@pytest.mark.parametrize("name", sorted(VENUES))
def test_a_recorded_listing_that_is_none_is_passed_over(tmp_path: Path, name: str) -> None:
    request = VENUES[name]().request(Ask(query=Query.INSTRUMENTS))
    bodies = (
        b"",
        b"null",
        b"[]",
        b"{}",
        b"<html>",
        b'{"symbols":[1]}',
        b'{"code":"0","data":[{"instId":5}]}',
        b"[" * 9_999,
    )
    lines = [b"openoutcry-recording 1 %s" % name.encode()]
    lines += [b"%d rest:%s %s" % (at, target(request).encode(), body) for at, body in enumerate(bodies)]
    path = tmp_path / "listing"
    path.write_bytes(b"\n".join(lines))
    events, summary = played(path)
    assert (events, summary.answers, summary.damaged) == ([], len(bodies), 0)


# Time


@pytest.mark.parametrize(("speed", "seconds"), [(1.0, 10.0), (4.0, 2.5)])
async def test_in_real_time_frames_come_when_they_came(tmp_path: Path, speed: float, seconds: float) -> None:
    path = write(tmp_path / "hyperliquid", [(START_NS, trade(0)), (START_NS + 10 * NS, trade(1))])
    clock = ManualClock(5 * NS)
    frames = Replay([path], clock).paced(speed)
    heard: list[Sequence[Event]] = [(await anext(frames))[1]]
    assert clock.now_ns() == 5 * NS

    following = asyncio.ensure_future(anext(frames))
    await clock.advance(seconds - 0.01)
    assert not following.done()
    await clock.advance(0.02)
    assert following.done()
    heard.append((await following)[1])
    assert [e.id for events in heard for e in events if isinstance(e, Trade)] == [0, 1]


async def test_nobody_waits_out_the_years_between_two_recordings(tmp_path: Path) -> None:
    year_ns = 365 * 86_400 * NS
    # Silences within a recording, and where recordings overlap, are as they were.
    early = write(tmp_path / "hyperliquid.1", [(START_NS, trade(0)), (START_NS + 60 * NS, trade(1))])
    beside = write(tmp_path / "hyperliquid.2", [(START_NS + 50 * NS, trade(2)), (START_NS + 90 * NS, trade(3))])
    late = write(tmp_path / "hyperliquid.3", [(START_NS + year_ns, trade(4)), (START_NS + year_ns + 30 * NS, trade(5))])
    clock = ManualClock(5 * NS)
    due_s: list[float] = []

    async def listen() -> None:
        async for _, _ in Replay([late, early, beside], clock).paced(2.0):
            due_s.append((clock.now_ns() - 5 * NS) / NS)

    listening = asyncio.ensure_future(listen())
    while not listening.done():
        assert clock.now_ns() < 200 * NS
        await clock.advance(0.5)
    await listening
    begin_s = 45 + PAUSE_S_MAX / 2
    assert due_s == [0, 25, 30, 45, begin_s, begin_s + 15]


async def test_without_a_speed_nobody_waits(tmp_path: Path) -> None:
    path = write(tmp_path / "hyperliquid", [(START_NS + n * NS, trade(n)) for n in range(1_000)])
    assert len([events async for _, events in Replay([path], ManualClock()).paced(None)]) == 1_000


# Real input: counts and sums were taken from the raw lines with another program


def clean(summary: Summary) -> bool:
    """Nothing was refused that should not be."""
    return summary.unreadable == summary.damaged == summary.duplicates == 0 and not summary.skipped


def trades_of(events: Iterable[Event]) -> list[Trade]:
    return [event for event in events if isinstance(event, Trade)]


def test_hyperliquid(recordings: Path) -> None:
    events, summary = played(recordings / "frames" / "HYPERLIQUID_20250126.gz")
    assert (summary.frames, summary.events) == (55, {"Trade": 64, "DepthSnapshot": 46})
    assert clean(summary)
    trades = trades_of(events)
    assert sum((t.size for t in trades), Decimal(0)) == Decimal("0.92773")
    assert trades[-1].price == Decimal("105051.0")
    books = [e for e in events if isinstance(e, DepthSnapshot)]
    assert {(len(b.bids), len(b.asks)) for b in books} == {(20, 20)}
    assert books[0].bids[0] == (Decimal("105055.0"), Decimal("3.03622"))


def test_binance_without_a_recorded_listing(recordings: Path) -> None:
    events, summary = played(recordings / "frames" / "BINANCE.ws.1.0.gz")
    assert summary.venues == ["binance"]
    assert (summary.frames, summary.answers, summary.listed) == (265, 4, 0)
    assert summary.events == {"DepthSnapshot": 4, "DepthDelta": 177, "Quote": 84, "Trade": 2, "Candle": 2}
    assert clean(summary)
    first, second = trades_of(events)
    assert first == Trade(
        "binance:NKNUSDT",
        1_633_998_523_963_000_000,
        1_633_998_523_957_215_000,
        15_683_430,
        15_683_430,
        Side.BUY,
        Decimal("0.35280000"),
        Decimal("58.00000000"),
    )
    assert first.size + second.size == Decimal(235)
    candle = next(e for e in events if isinstance(e, Candle))
    assert (candle.open_ns, candle.volume, candle.quote_volume, candle.trades, candle.closed) == (
        1_633_998_480_000_000_000,
        Decimal(25_877),
        Decimal("9116.04600000"),
        30,
        False,
    )


def test_binance_futures_with_the_listing_recorded_beside(recordings: Path) -> None:
    events, summary = played(recordings / "frames" / "BINANCE_FUTURES.ws.1.0.gz")
    assert summary.venues == ["binance_futures"]
    assert (summary.frames, summary.answers, summary.listed) == (1_535, 5, 122)
    assert summary.events == {"DepthSnapshot": 4, "DepthDelta": 764, "Quote": 613, "Trade": 91, "Candle": 67}
    assert clean(summary)
    trades = trades_of(events)
    assert sum((t.size for t in trades), Decimal(0)) == Decimal(177_768)
    assert Counter(t.side for t in trades) == {Side.BUY: 47, Side.SELL: 44}
    assert (trades[0].instrument, trades[0].id, trades[0].price) == (
        "binance_futures:CTKUSDT",
        16_599_292,
        Decimal("1.011"),
    )
    closed = {e.instrument: e for e in events if isinstance(e, Candle) and e.closed}
    assert len(closed) == sum(isinstance(e, Candle) and e.closed for e in events) == 4
    assert {e.open_ns for e in closed.values()} == {1_626_992_700_000_000_000}
    assert summary.first_ns == 1_626_992_741_062_170_000


def test_binance_delivery_counts_contracts_by_the_listing_recorded_beside(recordings: Path) -> None:
    events, summary = played(recordings / "frames" / "BINANCE_DELIVERY.ws.1.0.gz")
    assert summary.venues == ["binance_delivery"]
    assert (summary.frames, summary.answers, summary.listed) == (4_371, 1, 36)
    assert summary.events == {"DepthDelta": 2_047, "Quote": 2_240, "Trade": 51, "Candle": 33}
    assert clean(summary)
    trades = trades_of(events)
    assert Counter(t.side for t in trades) == {Side.SELL: 34, Side.BUY: 17}
    assert sum((t.contracts or Decimal(0) for t in trades), Decimal(0)) == Decimal(15_655)
    for trade in trades:
        usd = 100 if trade.instrument.startswith("binance_delivery:BTC") else 10
        assert trade.contracts is not None
        assert trade.value == trade.contracts * usd
        assert trade.size == (trade.value / trade.price).quantize(Decimal("1e-8"))
    # The volume column of the venue is contracts; its "quote volume" is coins.
    candle = next(e for e in events if isinstance(e, Candle))
    assert (candle.volume, candle.quote_volume) == (Decimal("9.49653573"), Decimal(18_930))


@pytest.mark.parametrize(
    ("name", "deltas"),
    [
        ("BINANCE", {"NKNUSDT": 150, "BLZETH": 10, "LRCBTC": 15, "RUNEEUR": 2}),
        ("BINANCE_FUTURES", {"SUSHIUSDT": 255, "AKROUSDT": 189, "KEEPUSDT": 135, "CTKUSDT": 185}),
    ],
)
def test_recorded_deltas_join_the_recorded_snapshots_into_books(
    recordings: Path, name: str, deltas: dict[str, int]
) -> None:
    events, _ = played(recordings / "frames" / f"{name}.ws.1.0.gz")
    kept: dict[str, Depth] = defaultdict(Depth)
    outcomes: dict[str, Counter[Outcome]] = defaultdict(Counter)
    last: dict[str, DepthDelta] = {}
    for event in events:
        symbol = event.instrument.partition(":")[2]
        if isinstance(event, DepthSnapshot | DepthDelta):
            outcomes[symbol][kept[symbol].take(event)] += 1
        if isinstance(event, DepthDelta):
            last[symbol] = event
    assert {symbol: sum(counts.values()) - 1 for symbol, counts in outcomes.items()} == deltas
    for symbol, depth in kept.items():
        # Every delta was joined, and none broke the chain or crossed the book.
        assert outcomes[symbol][Outcome.BROKEN] == 0
        assert depth.seq == last[symbol].seq
        assert depth.bids(1)[0][0] < depth.asks(1)[0][0]
        assert len(depth.bids(1_000)) > 100


OKX_LISTING = {
    "SPOT": [{"instId": "BTC-USDT", "instType": "SPOT", "baseCcy": "BTC", "quoteCcy": "USDT"}],
    "SWAP": [{"instId": "UNI-USD-SWAP", "instType": "SWAP", "uly": "UNI-USD", "settleCcy": "UNI", "ctVal": "10"}],
    "FUTURES": [
        {"instId": "BTC-USD-220527", "instType": "FUTURES", "uly": "BTC-USD", "settleCcy": "BTC", "ctVal": "100"}
    ],
}


def okx_listing(folder: Path) -> Path:
    """As cryptofeed would have recorded it beside the session."""
    common = {"state": "live", "tickSz": "0.1", "lotSz": "1", "ctMult": "1", "ctType": "inverse", "ctValCcy": "USD"}
    with gzip.open(folder / "OKX.0.gz", "wb") as file:
        for kind, rows in OKX_LISTING.items():
            body = {"code": "0", "msg": "", "data": [common | {"listTime": "1", "expTime": ""} | row for row in rows]}
            url = b"https://www.okx.com/api/v5/public/instruments?instType=%s" % kind.encode()
            file.write(b"%s -> 1652459220.5: %s\n" % (url, msgspec.json.encode(body)))
    return folder / "OKX.0.gz"


def test_okx_with_a_listing(recordings: Path, tmp_path: Path) -> None:
    events, summary = played(recordings / "frames" / "OKX.ws.1.0.gz", okx_listing(tmp_path))
    assert (summary.frames, summary.sent, summary.answers, summary.listed) == (410, 3, 3, 3)
    assert summary.events == {"Quote": 28, "Trade": 74, "DepthSnapshot": 3, "DepthDelta": 287}
    assert summary.signals == {"subscribed": 18}
    assert clean(summary)
    trades = trades_of(events)
    assert Counter(t.side for t in trades) == {Side.BUY: 48, Side.SELL: 26}
    dated = trades[0]
    assert (dated.instrument, dated.contracts, dated.value, dated.size) == (
        "okx:BTC-USD-220527",
        Decimal(1),
        Decimal(100),
        Decimal("0.00330920"),
    )
    assert sum((t.contracts or t.size for t in trades), Decimal(0)) == Decimal("138.48657495")


def test_okx_without_a_listing_leaves_out_what_it_cannot_count_and_says_so(recordings: Path) -> None:
    """A derivative's name does not tell its contract size; a pair's name tells all."""
    events, summary = played(recordings / "frames" / "OKX.ws.1.0.gz")
    assert {e.instrument for e in events} == {"okx:BTC-USDT"}
    assert summary.skipped == {"unknown_instrument": 200}
    assert summary.events == {"Quote": 25, "Trade": 69, "DepthSnapshot": 1, "DepthDelta": 97}
    assert summary.unreadable == summary.damaged == summary.duplicates == 0


def test_all_recordings_at_once_are_one_stream_in_the_order_of_time(recordings: Path) -> None:
    names = ["BINANCE", "BINANCE_FUTURES", "BINANCE_DELIVERY", "OKX"]
    replay = Replay([recordings / "frames" / f"{name}.ws.1.0.gz" for name in names], ManualClock())
    times = [received_ns for received_ns, _ in replay._steps()]
    assert times == sorted(times)
    assert replay.summary.frames == 265 + 1_535 + 4_371 + 410
    assert replay.summary.venues == ["binance", "binance_futures", "binance_delivery", "okx"]
