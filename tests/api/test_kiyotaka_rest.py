"""Kiyotaka over HTTP: transcripts of conversations with a real server, and its pages."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx2
import pytest
from google.protobuf import json_format

from openoutcry.accounts.keys import AI
from openoutcry.api.asgi import HttpServer, application
from openoutcry.api.kiyotaka import contract
from openoutcry.api.kiyotaka.rest import Kiyotaka
from openoutcry.clock import NS
from openoutcry.errors import Unavailable
from openoutcry.events import Side, open_of
from openoutcry.market.series import Of, SeriesKey
from tests.api.points import MINUTE_NS, NOW_NS, World

NOW_S = NOW_NS // NS
MINUTE_S = open_of(NOW_NS, 60) // NS
HOUR_S = open_of(NOW_NS, 3_600) // NS
CANDLES = "type=TRADE_SIDE_AGNOSTIC_AGG&exchange=BINANCE&rawSymbol=BTCUSDT&interval=MINUTE"
META = ("types", "exchanges", "categories", "coins", "symbols", "normalized-symbols")


class Caller:
    """A client with a key."""

    def __init__(self, world: World) -> None:
        self.http = httpx2.AsyncClient(trust_env=False, base_url=f"http://{world.http_at}")
        self.headers = {"X-Kiyotaka-Key": world.key}

    async def get(self, path: str, query: str = "", **headers: str) -> httpx2.Response:
        answer: httpx2.Response = await self.http.get(f"{path}?{query}", headers={**self.headers, **headers})
        return answer

    async def points(self, query: str) -> Any:
        answer = await self.get("/v1/points", query)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json"), answer.text
        return answer.json()["series"]

    async def refused(self, query: str, path: str = "/v1/points") -> str:
        """The text of a 400, whose body is held to its form."""
        answer = await self.get(path, query)
        said = answer.json()
        assert answer.status_code == 400, said
        assert said == {"code": 3, "message": said["message"], "details": [], "error": "INVALID_PARAMS"}
        return str(said["message"])


@pytest.fixture
async def caller(world: World) -> AsyncIterator[Caller]:
    made = Caller(world)
    yield made
    await made.http.aclose()


def opens(series: Any) -> list[int]:
    return [next(iter(point.values()))["timestamp"]["seconds"] for point in series["points"]]


# Who may ask


async def test_every_route_needs_a_key(caller: Caller, world: World) -> None:
    paths = ["/v1/points", *(f"/v1/{name}" for name in META)]
    for path in paths:
        for headers, message in (({}, "the key is missing"), ({"x-kiyotaka-key": "oo-no"}, "no such key")):
            answer = await caller.http.get(path, headers=headers)
            assert answer.status_code == 401
            assert answer.json() == {"code": 16, "message": message, "details": [], "error": "INVALID_API_KEY"}
    _, other = await world.keys.create("other", frozenset({AI}))
    answer = await caller.http.get("/v1/types", headers={"x-kiyotaka-key": other})
    assert (answer.status_code, answer.json()["error"]) == (403, "FORBIDDEN")
    assert answer.json()["message"] == "the key lacks the scope market"
    assert (await caller.http.get(f"/v1/types?x-kiyotaka-key={world.key}")).status_code == 401


async def test_a_revoked_key_is_unknown(caller: Caller, world: World) -> None:
    record, text = await world.keys.create("gone")
    caller.headers = {"x-kiyotaka-key": text}
    assert (await caller.get("/v1/types")).status_code == 200
    await world.keys.revoke(record.id)
    assert (await caller.get("/v1/types")).status_code == 401


@pytest.mark.parametrize("limits", [{"requests_per_s": 1.0, "burst": 2, "loopback": True}])
async def test_who_is_too_fast_is_told_when_to_come_back(caller: Caller, limits: Any) -> None:
    assert [(await caller.get("/v1/types")).status_code for _ in range(2)] == [200, 200]
    answer = await caller.get("/v1/types")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    said = answer.json()
    assert (said["code"], said["error"], said["details"]) == (8, "RATE_LIMITED", [])


# Points


async def test_the_usual_query(caller: Caller) -> None:
    [series] = await caller.points(
        "type=TRADE_SIDE_AGNOSTIC_AGG&exchange=BINANCE_FUTURES&rawSymbol=BTCUSDT&interval=HOUR"
        f"&from={HOUR_S - 3 * 3_600}&period={3 * 3_600}"
    )
    assert series["id"] == {
        "type": "TRADE_SIDE_AGNOSTIC_AGG",
        "rawSymbol": "BTCUSDT",
        "exchange": "BINANCE_FUTURES",
        "normalizedSymbol": "BTC-USDT",
        "category": "PERPETUAL",
        "interval": "HOUR",
        "side": "UNKNOWN_SIDE",
        "coin": "BTC",
    }
    assert opens(series) == [HOUR_S - n * 3_600 for n in (3, 2, 1)]
    close = (HOUR_S - 3 * 3_600) // 60 % 10_000
    assert series["points"][0] == {
        "tradeSideAgnosticAggregation": {
            "open": close,
            "high": close + 1,
            "low": close,
            "close": close,
            "volume": 3_600,
            "timestamp": {"seconds": HOUR_S - 3 * 3_600, "nanoseconds": 0},
        }
    }


async def test_both_shapes_of_an_answer_byte_by_byte(caller: Caller) -> None:
    query = f"{CANDLES}&from={MINUTE_S - 120}&period=120"
    n = (MINUTE_S - 120) // 60 % 10_000
    rows = [(n, MINUTE_S - 120), (n + 1, MINUTE_S - 60)]
    proto = ",".join(
        f'{{"tradeSideAgnosticAggregation":{{"open":{c},"high":{c + 1},"low":{c},"close":{c},"volume":60,'
        f'"timestamp":{{"seconds":{at},"nanoseconds":0}}}}}}'
        for c, at in rows
    )
    point = ",".join(
        f'{{"Point":{{"open":{c},"high":{c + 1},"low":{c},"close":{c},"volume":60,"timestamp":{{"s":{at}}}}}}}'
        for c, at in rows
    )
    of = (
        '"rawSymbol":"BTCUSDT","exchange":"BINANCE","normalizedSymbol":"BTC-USDT","category":"SPOT","interval":"MINUTE"'
    )
    head = f'{{"series":[{{"id":{{"type":"TRADE_SIDE_AGNOSTIC_AGG",{of}'
    for asked in ("", "&shape=proto", "&shape="):
        answer = await caller.get("/v1/points", query + asked)
        assert answer.text == f'{head},"side":"UNKNOWN_SIDE","coin":"BTC"}},"points":[{proto}]}}]}}'
        # And a client of the contract reads it.
        assert len(json_format.Parse(answer.text, contract.PointResponse()).series[0].points) == 2
    answer = await caller.get("/v1/points", f"{query}&shape=point")
    assert answer.text == f'{head},"coin":"BTC"}},"points":[{point}]}}]}}'
    assert await caller.refused(f"{query}&shape=Point") == "shape 'Point' is none of proto, point"


@asynccontextmanager
async def served(dialect: Kiyotaka, world: World) -> AsyncIterator[str]:
    """Another server on the same market; gives its address."""
    server = HttpServer(application(world.doors, [dialect]), "127.0.0.1", 0)
    yield f"http://{await server.start()}"
    await server.stop()


async def test_the_server_may_be_set_to_the_other_shape(world: World, caller: Caller) -> None:
    async with served(Kiyotaka(replace(world.doors, points_shape="point")), world) as address:
        answer = await caller.get(f"{address}/v1/points", f"{CANDLES}&period=120")
        assert list(answer.json()["series"][0]["points"][0]) == ["Point"]
        assert (await caller.get(f"{address}/v1/coins", "")).text == '{"coins":["BTC"]}'
        answer = await caller.get(f"{address}/v1/points", f"{CANDLES}&period=120&shape=proto")
        assert list(answer.json()["series"][0]["points"][0]) == ["tradeSideAgnosticAggregation"]


async def test_all_nine_types_are_told_with_their_own_member(world: World, caller: Caller) -> None:
    world.follow()
    world.trade(1)
    # When a minute has closed, the candles are there to be found without being named.
    await world.advance(60)
    world.trade(2)
    world.interest("binance_futures:BTCUSDT", "0")
    world.interest("cme:BTCG25", "10", "500", "100")
    world.interest("deribit:BTC-31JAN25-100000-C", "3", price="99.5")
    world.funding("binance_futures:BTCUSDT", "0.0001", "0.0002")
    world.liquidation("binance_futures:BTCUSDT", "1.5")
    world.levels("binance_futures:BTCUSDT", ("90", "2"), ("110", "3"))
    types = "&".join(f"type={name}" for name in list(contract.TYPES)[1:])
    found = await caller.points(f"{types}&interval=MINUTE&period=60")
    told = {(s["id"]["type"], s["id"]["side"]): s for s in found}
    assert [kind for kind, _ in told] == sorted((kind for kind, _ in told), key=contract.TYPES.__getitem__)
    members = {kind: next(iter(s["points"][-1])) for (kind, _), s in told.items()}
    assert members == {
        "TRADE": "trade",
        "TRADE_AGG": "tradeAggregation",
        "OPEN_INTEREST_AGG": "openInterestAggregation",
        "FUNDING_RATE_AGG": "fundingRateAggregation",
        "LIQUIDATION_AGG": "liquidationAggregation",
        "CME_OPEN_INTEREST_AGG": "cmeOpenInterestAggregation",
        "OPTION_OPEN_INTEREST_AGG": "optionOpenInterestAggregation",
        "TRADE_SIDE_AGNOSTIC_AGG": "tradeSideAgnosticAggregation",
        "HYPERLIQUID_LIQUIDATION_AGG": "hyperliquidLiquidationAggregation",
    }
    last = {kind: next(iter(s["points"][-1].values())) for (kind, _), s in told.items()}
    at = {"seconds": MINUTE_S + 60, "nanoseconds": 0}
    now = {"seconds": NOW_S + 60, "nanoseconds": 0}
    assert last["TRADE"] == {"id": "2", "price": 100, "amount": 0.5, "timestamp": now}
    assert last["TRADE_AGG"]["firstTimestamp"] == now
    assert last["OPEN_INTEREST_AGG"] == {"open": 0, "high": 0, "low": 0, "close": 0, "timestamp": at}
    assert (last["FUNDING_RATE_AGG"]["rateClose"], last["FUNDING_RATE_AGG"]["predictedOpen"]) == (0.0001, 0.0002)
    assert last["LIQUIDATION_AGG"] == {"liquidations": 1.5, "timestamp": at}
    assert (last["CME_OPEN_INTEREST_AGG"]["valueClose"], last["CME_OPEN_INTEREST_AGG"]["priceLow"]) == (500, 100)
    assert last["OPTION_OPEN_INTEREST_AGG"] == {"underlyingPriceClose": 99.5, "oiClose": 3, "timestamp": at}
    assert last["HYPERLIQUID_LIQUIDATION_AGG"] == {"timestamp": at, "coin": "BTC", "levels": [90, 2, 110, 3]}
    assert ("LIQUIDATION_AGG", "SELL") in told
    assert ("TRADE", "BUY") in told
    assert ("TRADE", "SELL") not in told


async def test_newest_first(world: World, caller: Caller) -> None:
    world.follow()
    for number in range(3):
        world.trade(number, str(100 + number))
        await world.advance(60)
    world.trade(9)
    query = f"{CANDLES}&from={MINUTE_S - 3 * 60}&period=900"
    for shape in ("proto", "point"):
        up = (await caller.get("/v1/points", f"{query}&shape={shape}&sortDirection=SORT_DIRECTION_ASC")).json()
        down = (await caller.get("/v1/points", f"{query}&shape={shape}&sort_direction=SORT_DIRECTION_DESC")).json()
        assert len(up["series"][0]["points"]) == 7
        assert down["series"][0]["points"] == up["series"][0]["points"][::-1]
        assert up == (await caller.get("/v1/points", f"{query}&shape={shape}")).json()
    said = await caller.refused(f"{query}&sortDirection=DESC")
    assert said == "sortDirection 'DESC' is none of SORT_DIRECTION_ASC, SORT_DIRECTION_DESC"


async def test_windows(caller: Caller) -> None:
    [series] = await caller.points(f"{CANDLES}&from={MINUTE_S - 119}&period=119")
    assert opens(series) == [MINUTE_S - 60]
    [series] = await caller.points(f"{CANDLES}&from={MINUTE_S - 120}&period=121")
    assert opens(series) == [MINUTE_S - 120, MINUTE_S - 60, MINUTE_S]
    [series] = await caller.points(f"{CANDLES}&from={MINUTE_S - 120}")
    assert opens(series)[-1] == MINUTE_S
    [series] = await caller.points(f"{CANDLES}&period=120&from=0&side=")
    assert opens(series) == [MINUTE_S - 60, MINUTE_S]
    assert await caller.points(f"{CANDLES}&from={NOW_S + 600}&period=60") == []
    assert "from and period are missing" in await caller.refused(CANDLES)


async def test_fields_are_repeated_and_named_either_way(caller: Caller) -> None:
    window = f"from={MINUTE_S - 60}&period=60"
    [one] = await caller.points(f"{CANDLES}&{window}")
    for query in (
        "type=107&exchange=6&rawSymbol=BTCUSDT&interval=2",
        "interval=MINUTE&raw_symbol=BTCUSDT&exchange=BINANCE&type=TRADE_SIDE_AGNOSTIC_AGG",
        "type=TRADE_SIDE_AGNOSTIC_AGG&exchange=BINANCE&normalized_symbol=BTC-USDT&interval=MINUTE&coin=btc&coin=",
        f"{CANDLES}&category=&side=&unheardOf=1&transform.normalize.quote=USD&unknown",
    ):
        assert await caller.points(f"{query}&{window}") == [one]
    two = await caller.points(
        "type=TRADE_SIDE_AGNOSTIC_AGG&interval=MINUTE&exchange=BINANCE&exchange=BINANCE_FUTURES&rawSymbol=BTCUSDT"
        f"&rawSymbol=ETHUSDT&{window}"
    )
    assert [(s["id"]["exchange"], s["id"]["rawSymbol"]) for s in two] == [
        ("BINANCE_FUTURES", "BTCUSDT"),
        ("BINANCE", "BTCUSDT"),
        ("BINANCE", "ETHUSDT"),
    ]
    # Commas do not split: no venue lists a symbol of that name.
    assert (
        await caller.points(f"{CANDLES},ETHUSDT&{window}".replace("&interval=MINUTE,ETHUSDT", ",ETHUSDT&interval=2"))
        == []
    )


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("", "type is missing"),
        ("type=TRADE_SIDE_AGNOSTIC_AGG&period=60", "interval is missing: TRADE_SIDE_AGNOSTIC_AGG needs one"),
        ("type=trade_agg&period=60", "type 'trade_agg' is not in the contract; there are TRADE, TRADE_AGG, OPEN"),
        ("type=TRADE&exchange=BINANCE,COINBASE&period=60", "exchange 'BINANCE,COINBASE' is not in the contract"),
        ("type=TRADE&exchange=BINANCE_FUTURE&period=60", "there are BINANCE_FUTURES, "),
        ("type=TRADE&exchange=999&period=60", "exchange 999 is not in the contract"),
        ("type=TRADE&exchange=-1&period=60", "exchange -1 is not in the contract"),
        ("type=TRADE&exchange=99999999999&period=60", "exchange '99999999999' is not in the contract"),
        ("type=TRADE&interval=1&period=60", "interval 1 is none of MINUTE, FIVE_MINUTES"),
        ("type=TRADE&interval=1m&period=60", "interval '1m' is not in the contract; there are MINUTE, FIVE_MINUTES"),
        ("type=TRADE&side=BOTH&period=60", "side 'BOTH' is not in the contract; there are SELL, BUY"),
        ("type=TRADE&side=SELL&side=BUY&period=60", "side is given 2 times: give it once"),
        ("type=TRADE&period=-1", "period must be Unix seconds from 0"),
        ("type=TRADE&from=-5&period=60", "from must be Unix seconds from 0"),
        ("type=TRADE&from=1e9&period=60", "from must be a decimal number of seconds, not '1e9'"),
        ("type=TRADE&from=2024-01-01", "from must be a decimal number of seconds"),
        ("type=TRADE&from=99999999999999999999", "from must be a decimal number of seconds"),
        ("type=TRADE&from=9223372036854775807", "from must be Unix seconds from 0"),
        ("type=TRADE&from=4294967000&period=1000", "from + period must stay below"),
        ("type=TRADE&coin=%ff&period=60", "the query is not UTF-8"),
        ("type=TRADE&period=60&gapfill=yes", "gapfill must be true or false, not 'yes'"),
        (f"type={'X' * 500}", f"type '{'X' * 64}…' is not in the contract"),
    ],
)
async def test_what_cannot_be_asked_is_refused_with_what_would_be_right(caller: Caller, query: str, says: str) -> None:
    assert says in await caller.refused(query)


async def test_an_answer_has_a_cap_and_says_so(caller: Caller) -> None:
    minutes = 50_001
    said = await caller.refused(f"{CANDLES}&exchange=BINANCE_FUTURES&period={minutes * 60 // 2 + 120}")
    assert "more than 50000 points" in said
    assert "StreamPoints" in said


async def test_what_nobody_has_is_said_in_a_header(world: World, caller: Caller) -> None:
    world.outside.down = Unavailable("binance", "does not answer")
    answer = await caller.get("/v1/points", f"{CANDLES}&from={MINUTE_S - 600}&period=300")
    assert (answer.status_code, answer.json()) == (200, {"series": []})
    assert answer.headers["openoutcry-coverage"] == (
        f"missing TRADE_SIDE_AGNOSTIC_AGG binance:BTCUSDT {MINUTE_S - 600}-{MINUTE_S - 300}"
    )
    world.outside.down = None
    answer = await caller.get("/v1/points", f"{CANDLES}&from={MINUTE_S - 600}&period=300")
    assert "openoutcry-coverage" not in answer.headers
    assert len(answer.json()["series"][0]["points"]) == 5


async def test_what_takes_too_long_is_504(world: World, caller: Caller) -> None:
    world.outside.held.clear()
    async with served(Kiyotaka(world.doors, query_s_max=0.05), world) as address:
        answer = await caller.get(f"{address}/v1/points", f"{CANDLES}&from={MINUTE_S - 600}&period=300")
        world.outside.held.set()
    assert answer.status_code == 504
    text = "the answer took more than 0.05 s: ask for less"
    assert answer.json() == {"code": 4, "message": text, "details": [], "error": "TIMEOUT"}


# What is known to be empty


async def test_gapfill_tells_empty_minutes_flat_and_never_missing_ones(world: World, caller: Caller) -> None:
    key = SeriesKey("binance:BTCUSDT", Of.CANDLES, 60)
    first_ns = MINUTE_S * NS - 10 * MINUTE_NS
    rows = [world.outside.candle("binance:BTCUSDT", 60, first_ns + n * MINUTE_NS) for n in (1, 3, 7)]
    # Minute 0 to 4 and 6 to 9 are whole; of minute 5 nothing is known, and no venue says.
    await world.market.keep(key, rows[:2], first_ns, first_ns + 5 * MINUTE_NS)
    await world.market.keep(key, rows[2:], first_ns + 6 * MINUTE_NS, first_ns + 10 * MINUTE_NS)
    world.outside.down = Unavailable("binance", "does not answer")
    first_s = first_ns // NS
    query = f"{CANDLES}&from={first_s}&period=600"
    [plain] = await caller.points(query)
    assert opens(plain) == [first_s + 60 * n for n in (1, 3, 7)]
    answer = await caller.get("/v1/points", f"{query}&gapfill=true")
    [filled] = answer.json()["series"]
    # Before 1 and in 6 no close is known; 5 is missing.
    assert opens(filled) == [first_s + 60 * n for n in (1, 2, 3, 4, 7, 8, 9)]
    assert str(first_s + 300) in answer.headers["openoutcry-coverage"]
    close = filled["points"][2]["tradeSideAgnosticAggregation"]["close"]
    assert filled["points"][3]["tradeSideAgnosticAggregation"] == {
        **dict.fromkeys(("open", "high", "low", "close"), close),
        "volume": 0,
        "timestamp": {"seconds": first_s + 240, "nanoseconds": 0},
    }
    assert [filled["points"][n] for n in (0, 2, 4)] == plain["points"]
    [point] = (await caller.get("/v1/points", f"{query}&gapfill=1&shape=point")).json()["series"]
    assert point["points"][3]["Point"] == {
        **dict.fromkeys(("open", "high", "low", "close"), close),
        "timestamp": {"s": first_s + 240},
    }
    [down] = await caller.points(f"{query}&gapfill=true&sortDirection=SORT_DIRECTION_DESC")
    assert down["points"] == filled["points"][::-1]
    # A window that begins in an empty minute looks back for the close, as far as nothing is missing.
    [later] = await caller.points(f"{CANDLES}&from={first_s + 240}&period=60&gapfill=true")
    assert later["points"] == [filled["points"][3]]
    [series] = await caller.points(f"{CANDLES}&from={first_s + 480}&period=60&gapfill=true")
    assert series["points"] == [filled["points"][5]]
    assert await caller.points(f"{CANDLES}&from={first_s + 300}&period=120&gapfill=true") == []


async def test_gapfill_tells_minutes_without_liquidations(world: World, caller: Caller) -> None:
    name = "binance_futures:BTCUSDT"
    world.liquidation(name, "1.5")
    key = SeriesKey(name, Of.LIQUIDATION_BARS, 60, Side.SELL)
    await world.market.keep(key, [], MINUTE_S * NS - 3 * MINUTE_NS, MINUTE_S * NS - MINUTE_NS)
    query = f"type=LIQUIDATION_AGG&coin=BTC&interval=MINUTE&side=SELL&from={MINUTE_S - 300}"
    [plain] = await caller.points(query)
    assert opens(plain) == [MINUTE_S]
    [filled] = await caller.points(f"{query}&gapfill=true")
    assert opens(filled) == [MINUTE_S - 180, MINUTE_S - 120, MINUTE_S]
    assert filled["points"][0] == {
        "liquidationAggregation": {"liquidations": 0, "timestamp": {"seconds": MINUTE_S - 180, "nanoseconds": 0}}
    }
    [point] = (await caller.get("/v1/points", f"{query}&gapfill=true&shape=point")).json()["series"]
    assert point["points"][0] == {"Point": {"timestamp": {"s": MINUTE_S - 180}}}


async def test_gapfill_keeps_to_the_cap(world: World, caller: Caller) -> None:
    name = "binance_futures:BTCUSDT"
    world.liquidation(name, "1.5")
    for side in (Side.BUY, Side.SELL):
        key = SeriesKey(name, Of.LIQUIDATION_BARS, 60, side)
        await world.market.keep(key, [], (MINUTE_S - 60 * 30_000) * NS, MINUTE_S * NS)
    query = "type=LIQUIDATION_AGG&coin=BTC&interval=MINUTE"
    for minutes in (25_001, 29_000):
        said = await caller.refused(f"{query}&from={MINUTE_S - minutes * 60}&gapfill=true")
        assert "filled, the window holds more than 50000 points" in said
    both = await caller.points(f"{query}&from={MINUTE_S - 24_999 * 60}&gapfill=true")
    assert sum(len(series["points"]) for series in both) in (49_999, 50_000)


# What there is


async def test_meta_answers_name_what_is_there(world: World, caller: Caller) -> None:
    world.follow()
    world.trade(1)
    world.interest("binance_futures:BTCUSDT", "5")
    await world.advance(60)
    empty: dict[str, list[str]] = {
        "types": [],
        "exchanges": [],
        "categories": [],
        "coins": [],
        "rawSymbols": [],
        "normalizedSymbols": [],
    }
    says = {
        "types": {"types": ["TRADE", "TRADE_AGG", "OPEN_INTEREST_AGG", "TRADE_SIDE_AGNOSTIC_AGG"]},
        "exchanges": {"exchanges": ["BINANCE_FUTURES", "BINANCE"]},
        "categories": {"categories": ["SPOT", "PERPETUAL"]},
        "coins": {"coins": ["BTC"]},
        "symbols": {"rawSymbols": ["BTCUSDT"]},
        "normalized-symbols": {"normalizedSymbols": ["BTC-USDT"]},
    }
    for name, said in says.items():
        answer = await caller.get(f"/v1/{name}", "")
        assert answer.json() == {**empty, **said}
        assert json_format.Parse(answer.text, contract.PointMetaResponse())
        answer = await caller.get(f"/v1/{name}", "shape=point")
        assert answer.text == json.dumps(said, separators=(",", ":"))
    answer = await caller.get("/v1/exchanges", "type=OPEN_INTEREST_AGG&coin=BTC&raw_symbol=BTCUSDT&shape=point")
    assert answer.json() == {"exchanges": ["BINANCE_FUTURES"]}
    answer = await caller.get("/v1/exchanges", "coin=XYZ&shape=point")
    assert (answer.status_code, answer.text) == (200, '{"exchanges":[]}')
    answer = await caller.get("/v1/coins", f"from={NOW_S - 7_200}&to={NOW_S - 3_600}&shape=point")
    assert answer.json() == {"coins": []}


async def test_meta_questions_are_refused_like_others(caller: Caller) -> None:
    for name in META:
        path = f"/v1/{name}"
        assert "from must lie before to" in await caller.refused("from=20&to=10", path)
        assert "type 'X' is not in the contract" in await caller.refused("type=X", path)
        assert "shape 'x'" in await caller.refused("shape=x", path)


# What is not there


async def test_other_methods_are_405_and_other_paths_404(caller: Caller) -> None:
    for method in ("HEAD", "POST", "PUT", "DELETE", "PATCH"):
        answer = await caller.http.request(method, "/v1/points", headers=caller.headers)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
        if method != "HEAD":
            text = f"{method} is not served here: GET is"
            assert answer.json() == {"code": 12, "message": text, "details": [], "error": "NOT_IMPLEMENTED"}
    for path in ("/v1/", "/v1/point", "/v1/points/", "/v1/points/x", "/v2/x", "/docs/x", "/swagger/x"):
        answer = await caller.get(path)
        assert answer.status_code == 404
        assert answer.json() == {
            "code": 5,
            "message": f"there is nothing at {path}",
            "details": [],
            "error": "NOT_FOUND",
        }
    # Paths of nobody are worded by the dialect that takes the rest.
    assert "detail" in (await caller.get("/v1")).json()


async def test_a_fault_of_ours_is_500_without_a_word_about_it(world: World, caller: Caller) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("secret")

    world.market.instruments = fails  # type: ignore[method-assign]
    answer = await caller.get("/v1/points", f"{CANDLES}&period=60")
    assert answer.status_code == 500
    assert answer.json() == {"code": 13, "message": "internal error", "details": [], "error": "INTERNAL_ERROR"}


# Pages


async def test_the_app_describes_the_routes(caller: Caller) -> None:
    said = (await caller.http.get("/openapi.json")).json()
    for name in ("points", *META):
        described = said["paths"][f"/v1/{name}"]["get"]
        assert described["security"] == [{"key": []}]
        assert {"200", "400", "401", "403", "429", "500", "503", "504"} <= set(described["responses"])
        asked = {each["name"]: each["schema"] for each in described["parameters"]}
        assert asked["type"]["items"]["enum"] == list(contract.TYPES)
        assert asked["shape"]["enum"] == ["proto", "point"]
    assert {"gapfill", "sortDirection", "from", "period"} <= {
        each["name"] for each in said["paths"]["/v1/points"]["get"]["parameters"]
    }
    assert said["components"]["securitySchemes"]["key"] == {"type": "apiKey", "in": "header", "name": "x-kiyotaka-key"}
    named = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(said)))
    assert named <= set(said["components"]["schemas"])


async def test_docs_with_a_slash_and_without_are_two_pages(caller: Caller) -> None:
    with_slash, without = await caller.http.get("/docs/"), await caller.http.get("/docs")
    assert (with_slash.status_code, without.status_code) == (200, 200)
    assert "swagger-ui" in without.text
    assert "swagger-ui" not in with_slash.text
    page = with_slash.text
    for name in ("api.PointRequest", "api.Point", "api.PointExchange", "Timestamp", "CmeOpenInterestAggregation"):
        assert f'<h3 id="{name}">{name}</h3>' in page
    # Every link leads somewhere.
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(re.findall(r'id="([^"]+)"', page))
    row = "<tr><td><code>period</code></td><td>15</td><td>int64</td><td></td><td>Length of the window in seconds."
    assert row in page
    assert "<td>one of point</td>" in page
    assert "<td><code>predictedOpen</code></td><td>5</td><td>double</td><td>optional</td>" in page
    assert "<code>GET /v1/normalized-symbols</code>" in page
    assert "stream of" in page
    assert "<td>Points since <code>from</code>, then live ones." in page


async def test_swagger_describes_the_contract(caller: Caller) -> None:
    page = await caller.http.get("/swagger/")
    for asset in re.findall(r'"(\.\./static-offline-docs/[^"]+)"', page.text):
        assert (await caller.http.get(urljoin("/swagger/", asset))).status_code == 200
    assert "https://" not in page.text
    assert "'api.swagger.json'" in page.text or '"api.swagger.json"' in page.text
    said = (await caller.http.get("/swagger/api.swagger.json")).json()
    assert said["swagger"] == "2.0"
    assert said["securityDefinitions"] == {"key": {"type": "apiKey", "name": "x-kiyotaka-key", "in": "header"}}
    assert said["security"] == [{"key": []}]
    operations = {path: each["get"]["operationId"] for path, each in said["paths"].items()}
    assert operations == {
        "/v1/points": "API_GetPoints",
        "/v1/types": "API_GetTypes",
        "/v1/exchanges": "API_GetExchanges",
        "/v1/categories": "API_GetCategories",
        "/v1/coins": "API_GetCoins",
        "/v1/symbols": "API_GetRawSymbols",
        "/v1/normalized-symbols": "API_GetNormalizedSymbols",
    }
    asked = {each["name"]: each for each in said["paths"]["/v1/points"]["get"]["parameters"]}
    assert list(asked) == [field.name for field in contract.PointRequest.DESCRIPTOR.fields]
    assert asked["exchange"]["items"]["enum"] == list(contract.EXCHANGES)
    assert (asked["exchange"]["type"], asked["exchange"]["collectionFormat"]) == ("array", "multi")
    assert (asked["from"]["type"], asked["from"]["format"]) == ("string", "int64")
    assert asked["side"]["default"] == "UNKNOWN_SIDE"
    definitions = said["definitions"]
    assert {"apiPointResponse", "apiPointSeries", "apiPointMetaResponse", "apiPointType", "Trade", "Timestamp"} <= set(
        definitions
    )
    assert set(re.findall(r'"#/definitions/(\w+)"', json.dumps(said))) <= set(definitions)


async def test_folders_are_reached_without_their_slash(caller: Caller) -> None:
    for name in ("swagger", "proto"):
        answer = await caller.http.get(f"/{name}")
        assert (answer.status_code, answer.headers["location"]) == (307, f"{name}/")
        assert (await caller.http.head(f"/{name}/")).status_code == 200


async def test_nothing_beside_the_files_of_the_contract_is_read(caller: Caller, world: World) -> None:
    host, _, port = world.http_at.rpartition(":")
    for path in (
        "/proto/../rest.py",
        "/proto/%2e%2e/rest.py",
        "/proto/..%2frest.py",
        "/proto//etc/passwd",
        "/proto/lib",
    ):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        heard = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert heard.startswith(b"HTTP/1.1 404 "), path


async def test_a_mirror_of_the_files_makes_a_client(caller: Caller, tmp_path: Path) -> None:
    """Followed by its links from the root, as a recursive wget does, and compiled from the three roots."""
    seen, waiting = set[str](), ["/proto/"]
    files: list[str] = []
    while waiting:
        path = waiting.pop()
        if path in seen or not path.startswith("/proto/"):
            continue
        seen.add(path)
        answer = await caller.http.get(path)
        assert answer.status_code == 200
        if answer.headers["content-type"].startswith("text/html"):
            assert path.endswith("/")
            waiting += [urljoin(path, target) for target in re.findall(r'href="([^"]+)"', answer.text)]
        else:
            assert answer.headers["content-type"] == "text/plain; charset=utf-8"
            file = tmp_path / path.removeprefix("/proto/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(answer.content)
            files.append(path.removeprefix("/proto/"))
    assert len(files) == 15
    made = tmp_path / "made"
    made.mkdir()
    roots = ["service", "lib", "types"]
    names = [file.partition("/")[2] for file in files]
    compiler = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "grpc_tools.protoc"),
        *(f"-I{root}" for root in roots),
        "--python_out=made",
        *names,
        cwd=tmp_path,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await compiler.communicate()
    assert compiler.returncode == 0, said.decode()
    assert (made / "api" / "api_pb2.py").exists()
    assert (made / "hyperliquid_liquidation_aggregation_pb2.py").exists()
