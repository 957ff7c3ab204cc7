"""The description of the socket is held to the frames that a real server sends."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from openoutcry.api.agentk import asyncapi, ws
from openoutcry.api.agentk.candles_wire import ErrorCode
from openoutcry.config import AgentkConfig
from openoutcry.errors import Unavailable
from tests.api.conftest import NOW_NS, Served, a_candle
from tests.api.test_agentk_ws import BTC, all_heard, growing, heard, list_coins, running, said, subscribed

MINUTE_NS = 60_000_000_000
TYPES: Mapping[str, Any] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": int | float, "null": None,
}  # fmt: skip
# Words of JSON Schema that only explain.
SAYING = {"title", "description", "examples", "default"}
CHECKED = {
    *("type", "properties", "required", "items", "minItems", "maxItems", "minimum", "enum", "$ref", "anyOf"),
}


@pytest.fixture
def document() -> Any:
    doors: Any = SimpleNamespace(agentk=AgentkConfig())
    return asyncapi.document(doors)


def wrong(schema: Mapping[str, Any], value: Any, of: Mapping[str, Any]) -> str:
    """What is wrong with a value; an empty text where nothing is. Knows the words that our schemas use, and no others."""
    assert set(schema) <= CHECKED | SAYING, schema
    if "$ref" in schema:
        return wrong(of["components"]["schemas"][schema["$ref"].rpartition("/")[2]], value, of)
    if "anyOf" in schema:
        return "" if any(not wrong(each, value, of) for each in schema["anyOf"]) else f"{value!r} is none of them"
    if "enum" in schema and value not in schema["enum"]:
        return f"{value!r} is none of {schema['enum']}"
    kinds = schema.get("type", [])
    kinds = kinds if isinstance(kinds, list) else [kinds]
    fits = any(value is None if kind == "null" else isinstance(value, TYPES[kind]) for kind in kinds)
    if kinds and (not fits or (isinstance(value, bool) and "boolean" not in kinds)):
        return f"{value!r} is no {kinds}"
    if value in (None, True, False) or isinstance(value, str):
        return ""
    if isinstance(value, int | float):
        return f"{value} is too small" if value < schema.get("minimum", value) else ""
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            return f"{len(value)} items"
        return next(filter(None, (wrong(schema["items"], each, of) for each in value)), "")
    lacking = set(schema["required"]) - set(value)
    unknown = set(value) - set(schema["properties"])
    if lacking or unknown:
        return f"lacks {lacking}, has {unknown}"
    return next(filter(None, (wrong(schema["properties"][name], each, of) for name, each in value.items())), "")


def payload(document: Any, operation: str, op: str) -> Any:
    """The schema of a message of that op."""
    refs = [each["$ref"] for each in document["operations"][operation]["messages"]]
    for ref in refs:
        name = ref.rpartition("/")[2]
        message = document["components"]["messages"][name]
        assert document["channels"]["stream"]["messages"][name] == {"$ref": f"#/components/messages/{name}"}
        if message["name"] == op:
            return message["payload"]
    raise AssertionError(f"{operation} has no {op}")


async def test_every_frame_of_a_conversation_is_as_described(served: Served, document: Any) -> None:
    """Every op and every code of an error is said once at least."""
    list_coins(served)
    market = served.market
    market.memory = {(BTC, 60): ([a_candle(BTC, 60, NOW_NS - MINUTE_NS, close="1E-8")], growing(BTC))}
    market.missing = [(NOW_NS - MINUTE_NS, NOW_NS)]
    frames: list[Any] = []
    async with running(served, channels_a_connection_max=2) as streams, streams.ws() as client:
        frames.append(await heard(client))
        frames += await subscribed(client, "market.BTC.1m", "market.NOPE.1m")
        for candle in (growing(BTC, "0.1"), a_candle(BTC, 60, NOW_NS)):
            market.grow(candle)
            frames.append(await heard(client))
        await said(client, {"op": "subscribe", "channels": ["market.BTC.5m"]})
        frames += [await heard(client), await heard(client)]
        await said(client, {"op": "unsubscribe", "channels": ["market.BTC.1m"]})
        for frame in ("{", "{}", '{"op":"x"}', '{"op":"ping","ts":1.5}', '{"op":"ping","ts":"x"}', '{"op":"ping"}'):
            await said(client, frame)
        frames += await subscribed(client, *[f"market.{n}.1m" for n in range(9)])
        await served.clock.advance(30)
        frames += await all_heard(client)
        market.fails = Unavailable("binance_futures", "it does not answer")
        frames += await subscribed(client, "market.BTC.15m")
    for frame in frames:
        assert not wrong(payload(document, "tell", frame["op"]), frame, document), frame
    told = {each["name"] for each in _messages(document, "tell")}
    assert {frame["op"] for frame in frames} == told
    assert {frame["code"] for frame in frames if frame["op"] == "error"} == set(get_args(ErrorCode))
    assert any("missing" in frame for frame in frames)


async def test_what_is_described_of_the_client_is_understood(served: Served, document: Any) -> None:
    list_coins(served)
    good: list[Any] = [
        {"op": "subscribe", "channels": ["market.BTC.1m"]},
        {"op": "unsubscribe", "channels": ["market.BTC.1m"]},
        {"op": "ping", "ts": 1},
        {"op": "ping"},
        {"op": "pong", "ts": 1},
        {"op": "pong"},
    ]
    bad: list[Any] = [
        {"op": "subscribe"},
        {"op": "subscribe", "channels": []},
        {"op": "unsubscribe", "channels": [1]},
        {"op": "ping", "ts": [1]},
    ]
    assert {each["op"] for each in good} == {each["name"] for each in _messages(document, "hear")}
    async with running(served) as streams, streams.client() as client:
        for frames, right in ((good, True), (bad, False)):
            for frame in frames:
                assert (not wrong(payload(document, "hear", frame["op"]), frame, document)) is right, frame
                await said(client, frame)
                assert all(told["op"] != "error" for told in await all_heard(client)) is right, frame


def _messages(document: Any, operation: str) -> list[Any]:
    refs = [each["$ref"].rpartition("/")[2] for each in document["operations"][operation]["messages"]]
    return [document["components"]["messages"][name] for name in refs]


def test_every_reference_leads_somewhere(document: Any) -> None:
    def refs(of: Any) -> list[str]:
        if isinstance(of, dict):
            return [each for name, each in of.items() if name == "$ref"] + [
                r for each in of.values() for r in refs(each)
            ]
        return [r for each in of for r in refs(each)] if isinstance(of, list) else []

    found = refs(document)
    assert len(found) > 30
    for ref in found:
        at = document
        for part in ref.removeprefix("#/").split("/"):
            at = at[part]


def test_the_limits_and_codes_are_those_that_hold(document: Any) -> None:
    assert document["x-limits"] == {
        "connections_a_key": 10,
        "channels_a_connection": 50,
        "snapshot_rows": 50,
        "frame_bytes": 65_536,
        "heartbeat_ms": 30_000,
    }
    assert document["x-intervals"] == ["1m", "5m", "15m", "1h", "4h", "12h", "1d"]
    source = Path(ws.__file__).read_text()
    used = {name for name in ("NO_KEY", "TOO_MANY", "POLICY", "FAULT", "TRY_LATER") if f"({name}, " in source}
    assert used >= {"NO_KEY", "POLICY", "FAULT"}
    codes = {getattr(ws, name) for name in ("NO_KEY", "TOO_MANY", "POLICY", "FAULT", "TRY_LATER")}
    assert {int(code) for code in document["x-close-codes"]} == codes | {1001, 1009}


def test_the_check_itself_tells_wrong_from_right(document: Any) -> None:
    event = {
        "op": "event",
        "channel": "market.BTC.1m",
        "ts": 1,
        "data": {
            "event": "kline_update", "source": "binance", "symbol": "BTC", "interval": "1m", "ts": 1, "open": 1,
            "high": 1.5, "low": 1, "close": 1, "volume": 0, "is_closed": False,
        },
    }  # fmt: skip
    schema = payload(document, "tell", "event")
    assert not wrong(schema, event, document)
    for name, value in (("ts", "1"), ("ts", -1), ("channel", None), ("data", {}), ("op", "ping"), ("more", 1)):
        assert wrong(schema, {**event, name: value}, document), name
    snapshot = {"op": "snapshot", "channel": "market.BTC.1m", "data": [[1, 1, 1, 1, 1, 1]]}
    schema = payload(document, "tell", "snapshot")
    assert not wrong(schema, snapshot, document)
    spoiled: list[Any] = [[[1, 1]], [[1, 1, 1, 1, 1, "1"]], [[1] * 6] * 51, {}]
    for data in spoiled:
        assert wrong(schema, {**snapshot, "data": data}, document), data
