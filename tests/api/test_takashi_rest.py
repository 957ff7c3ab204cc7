"""Conversations over HTTP with a real server: each row of the published page that says what a caller sees."""

import asyncio
import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from openoutcry.clock import NS
from openoutcry.errors import RateLimited
from openoutcry.events import FundingRate, OpenInterest, PredictedFunding
from openoutcry.market.outside import VenueState
from openoutcry.transport import Response
from openoutcry.venues.venue import Answer

NOW_NS = 1_763_553_600 * NS
NOW_MS = NOW_NS // 1_000_000
MINUTE_NS = 60 * NS
BTC = "binance_futures:BTCUSDT"
INTERVALS = "1m 3m 5m 15m 30m 1h 2h 4h 6h 8h 12h 1d 3d 1w 1M"


# System


async def test_the_root_says_what_this_is(served: Any) -> None:
    answer = await served.get("/")
    assert answer.json() == {
        "name": "TAKASHI Multi-Exchange Market Data API",
        "version": "1.0.0",
        "status": "operational",
        "docs": "/docs",
        "exchanges": ["binance", "bybit", "hyperliquid", "okx"],
    }


async def test_health_is_true_for_a_venue_that_delivers_and_false_for_one_that_does_not(served: Any) -> None:
    healthy = (await served.get("/health")).json()
    assert healthy == {
        "status": "healthy",
        "exchanges": {"binance": True, "bybit": True, "hyperliquid": True, "okx": True},
    }
    served.market.on["binance_futures"] = VenueState("binance_futures", False, 0, None, "silent")
    del served.market.on["okx"]
    answer = await served.get("/health")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "degraded",
        "exchanges": {"binance": False, "bybit": True, "hyperliquid": True},
    }


async def test_exchanges_tells_what_each_can_do(served: Any) -> None:
    said = (await served.get("/exchanges")).json()["exchanges"]
    all_true = dict.fromkeys(("ohlc", "funding_rate", "open_interest", "liquidations", "large_trades"), True)
    assert [one["name"] for one in said] == ["binance", "bybit", "hyperliquid", "okx"]
    assert [one["capabilities"] for one in said] == [
        all_true,
        all_true,
        all_true | {"liquidations": False},
        all_true,
    ]


async def test_the_catalog_of_streams_has_the_published_shape(served: Any) -> None:
    said = (await served.get("/ws-catalog")).json()
    assert said["per_exchange_pattern"] == "/ws/{exchange}/{symbol}/{stream}"
    assert set(said["streams"]) == {"ohlc", "large_trades", "liquidations"}
    assert [(one["path"], list(one["query"])) for one in said["aggregated"]] == [
        ("/ws/all/liquidations", ["min_value_usd"]),
        ("/ws/all/large_trades", ["min_value_usd"]),
        ("/ws/oi-vol", ["timeframes"]),
    ]
    assert all(one["description"] for one in said["aggregated"])
    assert len(said["examples"]) == 5
    assert all(example.startswith("ws://localhost:8000/ws/") for example in said["examples"])


# Candles


def remember(served: Any, make_candle: Any, name: str, closed: int, interval_s: int = 60) -> None:
    rows = [make_candle(name, interval_s, NOW_NS + i * interval_s * NS) for i in range(closed)]
    growing = make_candle(name, interval_s, NOW_NS + closed * interval_s * NS, closed=False, close="101.75")
    served.market.memory[name, interval_s] = (rows, growing)


async def test_a_candle_has_every_field_in_the_published_order(served: Any, make_candle: Any) -> None:
    remember(served, make_candle, BTC, 1)
    answer = await served.get("/binance/ohlc/BTCUSDT/1m?limit=2")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.text == (
        '[{"exchange":"binance","symbol":"BTCUSDT","timestamp":"2025-11-19T12:00:00Z","interval":"1m","open":101.25,'
        '"high":102.5,"low":100.5,"close":101.5,"volume":12.5,"quote_volume":1268.75,"trades_count":7,"is_closed":true},'
        '{"exchange":"binance","symbol":"BTCUSDT","timestamp":"2025-11-19T12:01:00Z","interval":"1m","open":101.25,'
        '"high":102.5,"low":100.5,"close":101.75,"volume":12.5,"quote_volume":1268.75,"trades_count":7,'
        '"is_closed":false}]'
    )


@pytest.mark.parametrize("query", ["", "?limit=1", "?limit=3", "?limit=7", "?limit=1500"])
async def test_the_hot_answer_is_the_ordinary_answer_byte_for_byte(served: Any, make_candle: Any, query: Any) -> None:
    remember(served, make_candle, BTC, 7)
    path = f"/binance/ohlc/BTCUSDT/1m{query}"
    first, hot = (await served.get(path)).content, (await served.get(path)).content
    # The same question in words that only the ordinary way understands.
    ordinary = (await served.get(path + ("&" if query else "?") + "other=1")).content
    assert first == hot == ordinary
    assert len(json.loads(hot)) == min(int(query.removeprefix("?limit=") or 500), 8)


@pytest.mark.parametrize("closed", [0, 1, 300])
async def test_an_answer_packed_for_those_who_can_unpack_is_the_same_answer(
    served: Any, make_candle: Any, closed: int
) -> None:
    remember(served, make_candle, BTC, closed)
    path = "/binance/ohlc/BTCUSDT/1m"
    await served.get(path)
    plain = await served.get(path, headers={"Accept-Encoding": "gzip;q=0, identity"})
    packed = await served.get(path, headers={"Accept-Encoding": "br, gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.content == plain.content
    assert "accept-encoding" in packed.headers["vary"].lower()
    if closed == 300:
        assert int(packed.headers["content-length"]) * 5 < len(plain.content)
        ordinary = await served.get(path + "?other=1", headers={"Accept-Encoding": "gzip"})
        assert ordinary.headers["content-encoding"] == "gzip"
        assert ordinary.content == plain.content


@pytest.mark.parametrize("limit", ["0", "1501", "-1", "x", "1.5", "", "99999999999"])
async def test_a_bad_limit_is_refused_alike_before_and_after_a_hot_answer(
    served: Any, make_candle: Any, limit: Any
) -> None:
    path = f"/binance/ohlc/BTCUSDT/1m?limit={limit}"
    cold = await served.get(path)
    remember(served, make_candle, BTC, 7)
    await served.get("/binance/ohlc/BTCUSDT/1m")
    warm = await served.get(path)
    assert (cold.status_code, cold.json()) == (warm.status_code, warm.json())
    assert cold.status_code == 422
    problem = cold.json()["detail"][0]
    assert problem["loc"] == ["query", "limit"]
    assert {"type", "msg", "input"} <= set(problem)


async def test_a_candle_that_is_corrected_later_is_sent_corrected(served: Any, make_candle: Any) -> None:
    remember(served, make_candle, BTC, 5)
    await served.get("/binance/ohlc/BTCUSDT/1m")
    rows, growing = served.market.memory[BTC, 60]
    served.market.memory[BTC, 60] = (
        [*rows[:2], make_candle(BTC, 60, rows[2].open_ns, close="99.5"), *rows[3:]],
        growing,
    )
    closes = [row["close"] for row in (await served.get("/binance/ohlc/BTCUSDT/1m")).json()]
    assert closes == [101.5, 101.5, 99.5, 101.5, 101.5, 101.75]


async def test_the_page_moves_on_when_a_candle_closes(served: Any, make_candle: Any) -> None:
    remember(served, make_candle, BTC, 5)
    before = (await served.get("/binance/ohlc/BTCUSDT/1m?limit=4")).json()
    rows, growing = served.market.memory[BTC, 60]
    closed = make_candle(BTC, 60, growing.open_ns, close="101.75")
    served.market.memory[BTC, 60] = ([*rows, closed], make_candle(BTC, 60, growing.open_ns + MINUTE_NS, closed=False))
    after = (await served.get("/binance/ohlc/BTCUSDT/1m?limit=4")).json()
    assert [row["is_closed"] for row in before] == [True, True, True, False]
    assert after[:2] == before[1:3]
    assert after[2] == before[3] | {"is_closed": True}
    assert [row["is_closed"] for row in after] == [True, True, True, False]


async def test_memory_that_is_too_short_is_no_answer_and_the_store_is_asked(served: Any, make_candle: Any) -> None:
    served.market.stored_candles[BTC, 60] = [make_candle(BTC, 60, NOW_NS + i * MINUTE_NS) for i in range(5)]
    rows = (await served.get("/binance/ohlc/BTCUSDT/1m?limit=2")).json()
    assert [row["timestamp"] for row in rows] == ["2025-11-19T12:03:00Z", "2025-11-19T12:04:00Z"]
    assert served.market.asked == [(BTC, 60, 2, None, None)]


@pytest.mark.parametrize(
    ("query", "minutes"),
    [
        (f"start_time={NOW_MS + 60_000}&limit=2", [1, 2]),
        (f"end_time={NOW_MS + 180_000}&limit=2", [2, 3]),
        (f"start_time={NOW_MS + 60_000}&end_time={NOW_MS + 240_000}&limit=2", [1, 2]),
        (f"start_time={NOW_MS + 60_000}&end_time={NOW_MS + 120_000}", [1, 2]),
        (f"start_time={NOW_MS + 60_000}&end_time={NOW_MS + 60_000}", [1]),
        (f"start_time=0&end_time={NOW_MS}", [0]),
        (f"start_time=-5&end_time={10**30}", [0, 1, 2, 3, 4]),
        (f"start_time={10**30}", []),
    ],
)
async def test_bounds_are_inclusive_milliseconds(served: Any, make_candle: Any, query: Any, minutes: Any) -> None:
    served.market.stored_candles[BTC, 60] = [make_candle(BTC, 60, NOW_NS + i * MINUTE_NS) for i in range(5)]
    remember(served, make_candle, BTC, 5)
    rows = (await served.get(f"/binance/ohlc/BTCUSDT/1m?{query}")).json()
    assert [row["timestamp"] for row in rows] == [f"2025-11-19T12:0{minute}:00Z" for minute in minutes]


async def test_a_range_backwards_is_refused(served: Any) -> None:
    for path in ("/binance/ohlc/BTCUSDT/1m", "/multi/ohlc/BTCUSDT/1m"):
        answer = await served.get(f"{path}?start_time=2000&end_time=1000")
        assert (answer.status_code, answer.json()) == (422, {"detail": "the start lies after the end"})
    raw = await served.get("/binance/klines/BTCUSDT/1m?startTime=2000&endTime=1000")
    assert raw.status_code == 422


async def test_stretches_that_nobody_has_are_named_and_never_filled(served: Any, make_candle: Any) -> None:
    served.market.stored_candles[BTC, 60] = [make_candle(BTC, 60, NOW_NS)]
    served.market.missing = [(NOW_NS + MINUTE_NS, NOW_NS + 3 * MINUTE_NS)]
    answer = await served.get(f"/binance/ohlc/BTCUSDT/1m?start_time={NOW_MS}")
    assert len(answer.json()) == 1
    assert answer.headers["x-missing"] == f"{NOW_MS + 60_000}-{NOW_MS + 179_999}"


@pytest.mark.parametrize("interval", INTERVALS.split())
async def test_every_interval_is_asked_in_its_own_length(served: Any, interval: Any) -> None:
    assert (await served.get(f"/bybit/ohlc/BTCUSDT/{interval}")).json() == []
    seconds = served.market.asked[0][1]
    units = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800, "M": 2_629_746}
    assert seconds == int(interval[:-1]) * units[interval[-1]]


@pytest.mark.parametrize("path", ["/binance/ohlc/BTCUSDT/7m", "/bybit/ohlc/BTCUSDT/60", "/multi/ohlc/BTCUSDT/xyz"])
async def test_an_unknown_interval_is_refused_and_those_allowed_are_named(served: Any, path: Any) -> None:
    answer = await served.get(path)
    assert answer.status_code == 422
    assert answer.json()["detail"].endswith(f"is not one of {INTERVALS}")
    assert served.market.asked == []


async def test_exchange_names_and_symbols_may_be_written_in_any_case(served: Any, make_candle: Any) -> None:
    remember(served, make_candle, BTC, 1)
    for _ in range(2):
        row = (await served.get("/BINANCE/ohlc/btcusdt/1m")).json()[0]
        assert (row["exchange"], row["symbol"]) == ("binance", "BTCUSDT")


@pytest.mark.parametrize(
    ("exchange", "written", "means", "spelled"),
    [
        ("hyperliquid", "BTC", "BTC", "BTC"),
        ("hyperliquid", "btc", "BTC", "BTC"),
        ("hyperliquid", "BTCUSDT", "BTC", "BTCUSDT"),
        ("hyperliquid", "kPEPE", "kPEPE", "kPEPE"),
        ("hyperliquid", "KPEPE", "kPEPE", "KPEPE"),
        ("hyperliquid", "xyz:TSLA", "xyz:TSLA", "xyz:TSLA"),
        ("hyperliquid", "@107", "@107", "@107"),
        ("okx", "BTC-USDT-SWAP", "BTC-USDT-SWAP", "BTC-USDT-SWAP"),
        ("okx", "BTCUSDT", "BTC-USDT-SWAP", "BTCUSDT"),
        ("okx", "btcusd", "BTC-USD-SWAP", "BTCUSD"),
    ],
)
async def test_a_symbol_means_what_the_listing_says_and_is_sent_back_as_asked(
    served: Any, make_candle: Any, exchange: Any, written: Any, means: Any, spelled: Any
) -> None:
    remember(served, make_candle, f"{exchange}:{means}", 1)
    for _ in range(2):
        rows = (await served.get(f"/{exchange}/ohlc/{written}/1m")).json()
        assert [row["symbol"] for row in rows] == [spelled, spelled]


async def test_quote_volume_is_estimated_where_the_venue_tells_none(served: Any, make_candle: Any) -> None:
    candle = msgspec.structs.replace(make_candle("hyperliquid:BTC", 60, NOW_NS), quote_volume=Decimal(0), trades=0)
    served.market.stored_candles["hyperliquid:BTC", 60] = [candle]
    row = (await served.get("/hyperliquid/ohlc/BTC/1m")).json()[0]
    assert row["quote_volume"] == 12.5 * (102.5 + 100.5 + 101.5) / 3
    assert row["trades_count"] == 0


# What does not exist

PATHS = [
    "/{}/ohlc/{}/1m",
    "/{}/oi/{}",
    "/{}/oi-hist/{}?period=5m",
    "/{}/funding/{}",
    "/{}/funding-hist/{}",
]


@pytest.mark.parametrize("path", PATHS)
async def test_an_unknown_exchange_is_404_and_those_there_are_named(served: Any, path: Any) -> None:
    answer = await served.get(path.format("kraken", "BTCUSDT"))
    assert answer.status_code == 404
    assert answer.json() == {"detail": "unknown exchange 'kraken': there are binance, bybit, hyperliquid, okx"}


@pytest.mark.parametrize("exchange", ["binance", "bybit", "hyperliquid", "okx"])
@pytest.mark.parametrize("path", PATHS)
async def test_an_unknown_symbol_is_404_on_every_exchange(served: Any, path: Any, exchange: Any) -> None:
    if "oi-hist" in path and exchange != "binance":
        return
    answer = await served.get(path.format(exchange, "NOPE"))
    assert answer.status_code == 404
    assert answer.json()["detail"].startswith(f"{exchange} has no symbol 'NOPE'; it lists ")


async def test_a_symbol_of_any_length_is_refused_in_few_words(served: Any) -> None:
    answer = await served.get("/binance/oi/" + "X" * 5_000)
    assert answer.status_code == 404
    assert len(answer.json()["detail"]) < 200


async def test_an_unknown_path_says_which(served: Any) -> None:
    answer = await served.get("/nope/nothing?x=1")
    assert answer.status_code == 404
    assert answer.json() == {"detail": "Not found", "path": f"http://{served.address}/nope/nothing?x=1"}


async def test_a_wrong_method_is_405(served: Any) -> None:
    answer = await served.http.post("/health")
    assert (answer.status_code, answer.json()) == (405, {"detail": "Method Not Allowed"})
    assert answer.headers["allow"] == "GET"


@pytest.mark.parametrize("path", PATHS)
async def test_a_venue_that_does_not_answer_is_503_with_its_name(served: Any, path: Any) -> None:
    served.market.down["binance_futures"] = "no connection"
    answer = await served.get(path.format("binance", "BTCUSDT"))
    assert answer.status_code == 503
    assert answer.json() == {"detail": "binance is unavailable: no connection"}
    assert answer.headers["retry-after"] == "7"


async def test_an_exchange_that_is_switched_off_is_503(served: Any) -> None:
    del served.market.on["bybit"]
    answer = await served.get("/bybit/oi/BTCUSDT")
    assert (answer.status_code, answer.json()) == (
        503,
        {"detail": "bybit is unavailable: it is switched off on this server"},
    )


async def test_what_memory_holds_is_served_while_the_venue_is_down(served: Any, make_candle: Any) -> None:
    remember(served, make_candle, BTC, 3)
    await served.get("/binance/ohlc/BTCUSDT/1m")
    served.market.down["binance_futures"] = "no connection"
    assert (await served.get("/binance/ohlc/BTCUSDT/1m")).status_code == 200


# Open interest


def some_interest(size: str, value: str | None, event_ns: int = NOW_NS) -> OpenInterest:
    return OpenInterest(BTC, event_ns, event_ns + 5, Decimal(size), None if value is None else Decimal(value))


async def test_open_interest_has_a_value_in_dollars_or_null(served: Any) -> None:
    served.market.interest[BTC] = [some_interest("125000.5", "12718187500")]
    assert (await served.get("/binance/oi/BTCUSDT")).text == (
        '{"exchange":"binance","symbol":"BTCUSDT","timestamp":"2025-11-19T12:00:00Z","open_interest":125000.5,'
        '"open_interest_value":12718187500.0}'
    )
    served.market.interest[BTC] = [some_interest("1", None, NOW_NS + 44_662_000_000)]
    said = (await served.get("/binance/oi/BTCUSDT")).json()
    assert said["open_interest_value"] is None
    assert said["timestamp"] == "2025-11-19T12:00:44.662000Z"


async def test_open_interest_of_a_spot_instrument_is_404_with_the_reason(served: Any) -> None:
    answer = await served.get("/hyperliquid/oi/@107")
    assert (answer.status_code, answer.json()) == (404, {"detail": "@107 is spot: it has no open interest"})


async def test_open_interest_history_has_defaults_and_bounds(served: Any) -> None:
    served.market.interest[BTC] = [some_interest(str(i), None, NOW_NS + i) for i in range(40)]
    rows = (await served.get("/binance/oi-hist/BTCUSDT")).json()
    assert [row["open_interest"] for row in rows] == list(range(10, 40))
    await served.get("/binance/oi-hist/BTCUSDT?period=1h&limit=500")
    assert served.market.asked == [(BTC, 300, 30), (BTC, 3_600, 500)]
    for limit in ("0", "501"):
        assert (await served.get(f"/binance/oi-hist/BTCUSDT?limit={limit}")).status_code == 422


async def test_an_unknown_period_is_refused_and_those_allowed_are_named(served: Any) -> None:
    for period in ("1m", "3m", "8h", "1w", "x", ""):
        answer = await served.get(f"/binance/oi-hist/BTCUSDT?period={period}")
        assert answer.status_code == 422
        assert answer.json() == {"detail": f"period '{period}' is not one of 5m 15m 30m 1h 2h 4h 6h 12h 1d"}


@pytest.mark.parametrize("exchange", ["bybit", "hyperliquid", "okx"])
async def test_open_interest_history_is_binance_only(served: Any, exchange: Any) -> None:
    answer = await served.get(f"/{exchange}/oi-hist/BTCUSDT?period=5m")
    assert (answer.status_code, answer.json()) == (
        404,
        {"detail": f"{exchange} has no open interest history here: only binance has"},
    )


# Funding


def a_rate(rate: str, funding_ns: int, *, settled: bool) -> FundingRate:
    return FundingRate(BTC, NOW_NS, NOW_NS + 2 * NS, Decimal(rate), funding_ns, 28_800, settled)


async def test_current_funding_is_the_running_rate_and_its_next_settlement(served: Any) -> None:
    served.market.rates[BTC] = [a_rate("0.0001", NOW_NS + 4 * 3_600 * NS, settled=False)]
    assert (await served.get("/binance/funding/BTCUSDT")).text == (
        '{"exchange":"binance","symbol":"BTCUSDT","timestamp":"2025-11-19T12:00:02Z","funding_rate":0.0001,'
        '"funding_time":"2025-11-19T16:00:00Z"}'
    )


async def test_funding_history_is_oldest_first_and_bounded(served: Any) -> None:
    hours = [a_rate(f"0.000{i % 9}", NOW_NS + i * 3_600 * NS, settled=True) for i in range(1_100)]
    served.market.rates[BTC] = hours
    rows = (await served.get("/binance/funding-hist/BTCUSDT?limit=2")).json()
    assert [row["timestamp"] for row in rows] == [row["funding_time"] for row in rows]
    assert rows[0]["timestamp"] < rows[1]["timestamp"]
    assert len((await served.get("/binance/funding-hist/BTCUSDT")).json()) == 100
    assert len((await served.get("/binance/funding-hist/BTCUSDT?limit=1000")).json()) == 1_000
    for limit in ("0", "1001"):
        assert (await served.get(f"/binance/funding-hist/BTCUSDT?limit={limit}")).status_code == 422


async def test_predicted_funding_by_coin(served: Any) -> None:
    def one(coin: str, label: str, rate: str | None) -> PredictedFunding:
        said = None if rate is None else Decimal(rate)
        return PredictedFunding(f"hyperliquid:{coin}", coin, label, NOW_NS, said, NOW_NS, 3_600)

    served.market.predicted = [one("BTC", "HlPerp", "0.0001"), one("BTC", "BinPerp", None), one("kPEPE", "HlPerp", "0")]
    btc = {
        "coin": "BTC",
        "venues": [
            {"venue": "HlPerp", "funding_rate": 0.0001, "next_funding_time": "2025-11-19T12:00:00Z"},
            {"venue": "BinPerp", "funding_rate": 0.0, "next_funding_time": None},
        ],
    }
    everything = (await served.get("/hyperliquid/predicted-funding")).json()
    assert [one["coin"] for one in everything] == ["BTC", "KPEPE"]
    assert (await served.get("/hyperliquid/predicted-funding?coin=btc")).json() == [btc]
    assert (await served.get("/hyperliquid/predicted-funding?coin=NOPE")).json() == []
    served.market.down["hyperliquid"] = "no connection"
    assert (await served.get("/hyperliquid/predicted-funding")).status_code == 503


# Many at once


async def test_multi_asks_three_exchanges_and_spells_hyperliquid_by_coin(served: Any, make_candle: Any) -> None:
    for name in (BTC, "bybit:BTCUSDT", "hyperliquid:BTC"):
        served.market.stored_candles[name, 300] = [make_candle(name, 300, NOW_NS)]
    answer = await served.get("/multi/ohlc/BTCUSDT/5m")
    said = answer.json()
    assert list(said) == ["binance", "bybit", "hyperliquid"]
    assert [rows[0]["symbol"] for rows in said.values()] == ["BTCUSDT", "BTCUSDT", "BTC"]
    assert "x-failed-exchanges" not in answer.headers
    assert {asked[2] for asked in served.market.asked} == {200}


async def test_multi_names_the_exchange_that_failed_and_serves_the_others(served: Any, make_candle: Any) -> None:
    served.market.stored_candles[BTC, 300] = [make_candle(BTC, 300, NOW_NS)]
    served.market.down["bybit"] = "no connection"
    answer = await served.get("/multi/ohlc/BTCUSDT/5m")
    assert answer.status_code == 200
    assert [len(rows) for rows in answer.json().values()] == [1, 0, 0]
    assert answer.headers["x-failed-exchanges"] == "bybit"


async def test_multi_with_all_failing_is_503_and_with_an_unknown_symbol_404(served: Any) -> None:
    assert (await served.get("/multi/ohlc/NOPEUSDT/5m")).status_code == 404
    for venue in ("binance_futures", "bybit", "hyperliquid"):
        served.market.down[venue] = "no connection"
    answer = await served.get("/multi/ohlc/BTCUSDT/5m")
    assert answer.status_code == 503
    assert answer.json() == {
        "detail": "; ".join(f"{e} is unavailable: no connection" for e in ("binance", "bybit", "hyperliquid"))
    }
    for limit in ("0", "1001"):
        assert (await served.get(f"/multi/ohlc/BTCUSDT/5m?limit={limit}")).status_code == 422


# Proxies


async def test_binance_answers_are_handed_on_untouched_and_asked_for_once(served: Any) -> None:
    body = b'[ {"symbol":"BTCUSDT", "lastPrice":"101.10"} ]'
    served.market.answers["/fapi/v1/ticker/24hr"] = Answer(200, {}, body, NOW_NS)
    answers = await asyncio.gather(*(served.get("/binance/tickers/24hr") for _ in range(5)))
    assert {answer.content for answer in answers} == {body}
    assert {answer.headers["content-type"] for answer in answers} == {"application/json"}
    assert served.market.asked == [("/fapi/v1/ticker/24hr", (), 40)]
    await served.clock.advance(1.5)
    await served.get("/binance/tickers/24hr")
    assert len(served.market.asked) == 2


async def test_klines_pass_only_what_was_checked(served: Any) -> None:
    served.market.answers["/fapi/v1/klines"] = Answer(200, {}, b"[]", NOW_NS)
    await served.get("/binance/klines/btcusdt/1M?limit=1500&startTime=1&endTime=2&evil=1")
    query = (("symbol", "BTCUSDT"), ("interval", "1M"), ("limit", "1500"), ("startTime", "1"), ("endTime", "2"))
    assert served.market.asked == [("/fapi/v1/klines", query, 10)]
    assert (await served.get("/binance/klines/BTC%2FUSDT/1m")).status_code == 404
    assert (await served.get("/binance/klines/BTC&x=1/1m")).status_code == 404
    assert (await served.get("/binance/klines/BTCUSDT/7m")).status_code == 422
    assert (await served.get("/binance/klines/BTCUSDT/1m?limit=1501")).status_code == 422
    assert len(served.market.asked) == 1


async def test_a_refusal_of_binance_keeps_its_status(served: Any) -> None:
    refused = Answer(400, {"retry-after": "30"}, b'{"code":-1121,"msg":"Invalid symbol."}', NOW_NS)
    served.market.answers["/fapi/v1/klines"] = refused
    answer = await served.get("/binance/klines/NOPE/1m")
    assert (answer.status_code, answer.json()) == (400, {"detail": {"code": -1121, "msg": "Invalid symbol."}})
    assert answer.headers["retry-after"] == "30"
    served.market.answers["/fapi/v1/klines"] = Answer(200, {}, b"[]", NOW_NS)
    assert (await served.get("/binance/klines/NOPE/1m")).status_code == 200  # a refusal is not kept
    served.market.answers["/fapi/v1/premiumIndex"] = Answer(502, {}, b"<html>bad gateway</html>", NOW_NS)
    answer = await served.get("/binance/mark-prices")
    assert (answer.status_code, answer.json()) == (502, {"detail": "<html>bad gateway</html>"})


async def test_binance_out_of_reach_is_503_and_not_kept(served: Any) -> None:
    served.market.down["binance_futures"] = "no connection"
    answer = await served.get("/binance/tickers/24hr")
    assert (answer.status_code, answer.json()) == (
        503,
        {"detail": "Failed to connect to Binance API: no connection"},
    )
    served.market.down.clear()
    served.market.fails = RateLimited("binance_futures", "banned", 90.2)
    answer = await served.get("/binance/tickers/24hr")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "91")
    served.market.fails = None
    served.market.answers["/fapi/v1/ticker/24hr"] = Answer(200, {}, b"[]", NOW_NS)
    assert (await served.get("/binance/tickers/24hr")).status_code == 200


async def test_coinmarketcap_without_a_key_is_500_after_validation(served: Any) -> None:
    for path in ("/coinmarketcap/categories", "/coinmarketcap/category?id=605e"):
        answer = await served.get(path)
        assert (answer.status_code, answer.json()) == (500, {"detail": "CoinMarketCap API key not configured"})
    for path in (
        "/coinmarketcap/category",
        "/coinmarketcap/category?id=1&limit=1001",
        "/coinmarketcap/categories?limit=5001",
        "/coinmarketcap/categories?start=0",
    ):
        assert (await served.get(path)).status_code == 422


async def test_coinmarketcap_is_handed_on_untouched(served: Any, catalogue: Any) -> None:
    served.catalogues["coinmarketcap"] = catalogue
    assert (await served.get("/coinmarketcap/categories")).content == catalogue.answer.body
    await served.get("/coinmarketcap/category?id=605e&start=2&limit=1000")
    assert catalogue.asked == [
        ("/v1/cryptocurrency/categories", (("start", "1"), ("limit", "100"))),
        ("/v1/cryptocurrency/category", (("id", "605e"), ("start", "2"), ("limit", "1000"))),
    ]
    catalogue.answer = Response(401, {}, b'{"status":{"error_code":1001}}')
    answer = await served.get("/coinmarketcap/category?id=other")
    assert (answer.status_code, answer.json()) == (401, {"detail": {"status": {"error_code": 1001}}})
