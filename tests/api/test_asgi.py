"""What every request passes: admission, limits, request ids, CORS, faults; and the pages about the API itself."""

import asyncio
import json
import re
from typing import Any

import pytest
import structlog

from openoutcry.api.asgi import HttpServer

ORIGIN = "http://localhost:5173"
PUBLISHED_PATHS = {
    "/": "System",
    "/health": "System",
    "/exchanges": "System",
    "/ws-catalog": "System",
    "/{exchange}/ohlc/{symbol}/{interval}": "Market Data",
    "/{exchange}/oi/{symbol}": "Market Data",
    "/{exchange}/oi-hist/{symbol}": "Market Data",
    "/{exchange}/funding/{symbol}": "Market Data",
    "/{exchange}/funding-hist/{symbol}": "Market Data",
    "/multi/ohlc/{symbol}/{interval}": "Market Data",
    "/hyperliquid/predicted-funding": "Market Data",
    "/binance/tickers/24hr": "Binance Proxy",
    "/binance/mark-prices": "Binance Proxy",
    "/binance/klines/{symbol}/{interval}": "Binance Proxy",
    "/coinmarketcap/categories": "External APIs",
    "/coinmarketcap/category": "External APIs",
}


# Pages about the API


async def test_every_published_path_is_described_with_its_refusals(served: Any) -> None:
    said = (await served.get("/openapi.json")).json()
    assert said["info"] == {"title": "TAKASHI Multi-Exchange Market Data API", "version": "1.0.0"}
    assert [tag["name"] for tag in said["tags"]] == [
        "System",
        "Market Data",
        "Binance Proxy",
        "External APIs",
        "Points",
        "Klines",
        "Accounts",
        "Billing",
        "AI",
        "Candles and streams",
        "News and tokens",
        "Lykke, public",
        "Lykke, private",
        "Operations",
    ]
    for path, tag in PUBLISHED_PATHS.items():
        described = said["paths"][path]["get"]
        assert described["tags"] == [tag]
        assert {"200", "422", "429", "500"} <= set(described["responses"])
        if "{exchange}" in path or path.startswith("/multi"):
            assert {"404", "503"} <= set(described["responses"])


async def test_every_schema_that_is_named_is_there(served: Any) -> None:
    text = (await served.get("/openapi.json")).text
    schemas = json.loads(text)["components"]["schemas"]
    named = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert named <= set(schemas)
    assert {"OHLC", "Interest", "Funding", "CoinFunding", "Refused", "Malformed"} <= named
    assert list(schemas["OHLC"]["properties"]) == [
        "exchange",
        "symbol",
        "timestamp",
        "interval",
        "open",
        "high",
        "low",
        "close",
        "volume",
        "quote_volume",
        "trades_count",
        "is_closed",
    ]
    assert schemas["OHLC"]["required"] == list(schemas["OHLC"]["properties"])


async def test_parameters_are_described_with_their_defaults_bounds_and_enumerations(served: Any) -> None:
    paths = (await served.get("/openapi.json")).json()["paths"]

    def parameters(path: str) -> dict[str, dict[str, object]]:
        return {one["name"]: one["schema"] for one in paths[path]["get"]["parameters"]}

    ohlc = parameters("/{exchange}/ohlc/{symbol}/{interval}")
    assert ohlc["exchange"]["enum"] == ["binance", "bybit", "hyperliquid", "okx"]
    assert ohlc["interval"]["enum"] == [
        "1m",
        "3m",
        "5m",
        "15m",
        "30m",
        "1h",
        "2h",
        "4h",
        "6h",
        "8h",
        "12h",
        "1d",
        "3d",
        "1w",
        "1M",
    ]
    bounds = {
        "/{exchange}/ohlc/{symbol}/{interval}": (500, 1, 1_500),
        "/{exchange}/oi-hist/{symbol}": (30, 1, 500),
        "/{exchange}/funding-hist/{symbol}": (100, 1, 1_000),
        "/multi/ohlc/{symbol}/{interval}": (200, 1, 1_000),
        "/binance/klines/{symbol}/{interval}": (500, 1, 1_500),
        "/coinmarketcap/categories": (100, 1, 5_000),
        "/coinmarketcap/category": (100, 1, 1_000),
    }
    for path, expected in bounds.items():
        limit = parameters(path)["limit"]
        assert (limit["default"], limit["minimum"], limit["maximum"]) == expected
    period = parameters("/{exchange}/oi-hist/{symbol}")["period"]
    assert (period["default"], period["enum"]) == ("5m", ["5m", "15m", "30m", "1h", "2h", "4h", "6h", "12h", "1d"])
    assert {"startTime", "endTime"} <= set(parameters("/binance/klines/{symbol}/{interval}"))


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_the_pages_for_people_are_there(served: Any, path: Any) -> None:
    answer = await served.get(path)
    assert answer.status_code == 200
    assert "TAKASHI Multi-Exchange Market Data API" in answer.text


# Health


async def test_alive_ready_and_metrics(served: Any) -> None:
    assert (await served.get("/alive")).json() == {"status": "alive"}
    served.checks["store"] = lambda: None
    ready = await served.get("/ready")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "parts": {"store": "ok"}})
    served.checks["feed"] = lambda: "no venue answers"
    ready = await served.get("/ready")
    assert (ready.status_code, ready.json()["parts"]["feed"]) == (503, "no venue answers")
    metrics = (await served.get("/metrics")).text
    assert 'openoutcry_http_requests_total{status="2xx"} 2.0' in metrics
    assert 'openoutcry_http_requests_total{status="5xx"} 1.0' in metrics


# CORS


@pytest.mark.parametrize(
    "path", ["/", "/kraken/oi/X", "/nope", "/binance/ohlc/BTCUSDT/1m?limit=0", "/coinmarketcap/categories"]
)
async def test_a_listed_origin_may_read_every_answer_and_every_refusal(served: Any, path: Any) -> None:
    answer = await served.get(path, headers={"Origin": ORIGIN})
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert "origin" in answer.headers["vary"].lower()
    assert "X-Failed-Exchanges" in answer.headers["access-control-expose-headers"]
    other = await served.get(path, headers={"Origin": "http://evil.example"})
    assert "access-control-allow-origin" not in other.headers


async def test_where_callers_bring_a_key_any_origin_may_call_and_no_cookie_counts(served: Any) -> None:
    for path, allowed, cookies in (("/v1/nothing", "*", None), ("/", None, "true")):
        answer = await served.get(path, headers={"Origin": "http://anywhere.example", "Cookie": "a=b"})
        assert answer.headers.get("access-control-allow-origin") == allowed
        assert answer.headers.get("access-control-allow-credentials") == cookies
        assert "Openoutcry-Coverage" in answer.headers["access-control-expose-headers"]
    asks = {
        "Origin": "http://anywhere.example",
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "x-kiyotaka-key",
    }
    answer = await served.http.options("/v1/points", headers=asks)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
    assert "x-kiyotaka-key" in answer.headers["access-control-allow-headers"]
    assert (await served.http.options("/exchanges", headers=asks)).status_code == 400


async def test_a_slash_too_many_or_too_few_leads_nowhere(served: Any) -> None:
    for path in ("/exchanges/", "/redoc/"):
        answer = await served.get(path)
        assert (answer.status_code, answer.headers.get("location")) == (404, None)


async def test_a_preflight_allows_all_methods_and_headers(served: Any) -> None:
    answer = await served.http.options(
        "/binance/oi/BTCUSDT",
        headers={
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "DELETE",
            "Access-Control-Request-Headers": "X-Anything",
        },
    )
    assert answer.status_code == 200
    assert "DELETE" in answer.headers["access-control-allow-methods"]
    assert "X-Anything" in answer.headers["access-control-allow-headers"]


# Faults


async def test_a_fault_of_ours_is_500_without_a_word_about_it_and_keeps_the_connection(served: Any) -> None:
    served.market.fails = RuntimeError("secret")
    with structlog.testing.capture_logs() as said:
        answer = await served.get("/binance/oi/BTCUSDT", headers={"Origin": ORIGIN})
    assert [(line["event"], line["path"]) for line in said] == [("request failed", "/binance/oi/BTCUSDT")]
    assert (answer.status_code, answer.json()) == (500, {"detail": "Internal server error"})
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["x-request-id"]
    assert "connection" not in answer.headers
    served.market.fails = None
    assert (await served.get("/")).status_code == 200


async def test_every_answer_has_a_request_id_the_callers_if_it_is_a_fair_one(served: Any) -> None:
    first, second = await served.get("/"), await served.get("/")
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert first.headers["x-request-id"].startswith("req_")
    assert (await served.get("/", headers={"X-Request-ID": "mine-1"})).headers["x-request-id"] == "mine-1"
    for unfair in ("x" * 65, "a b", "<x>"):
        assert (await served.get("/", headers={"X-Request-ID": unfair})).headers["x-request-id"] != unfair


# Limits


@pytest.mark.parametrize("limits", [{"requests_per_s": 2.0, "burst": 3, "loopback": True}])
async def test_a_caller_who_is_too_fast_gets_429_and_when_to_come_back(
    served: Any, make_candle: Any, limits: Any
) -> None:
    btc = "binance_futures:BTCUSDT"
    served.market.memory[btc, 60] = ([make_candle(btc, 60, 0)], None)
    path = "/binance/ohlc/BTCUSDT/1m"
    assert [(await served.get(path)).status_code for _ in range(3)] == [200, 200, 200]
    answer = await served.get(path, headers={"Origin": ORIGIN})
    assert answer.status_code == 429
    assert answer.json() == {"detail": "too many requests from this address: try again in 0.500 s"}
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    await served.clock.advance(0.5)
    assert [(await served.get(path)).status_code for _ in range(2)] == [200, 429]


async def test_a_body_too_large_is_413(served: Any) -> None:
    answer = await served.http.post("/health", content=b"x" * (1024 * 1024 + 1))
    assert (answer.status_code, answer.json()) == (413, {"detail": "a body may have 1048576 bytes"})


async def converse(address: str, said: bytes) -> bytes:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(said)
    heard = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    await writer.wait_closed()
    return heard


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 40_000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 101 + b"\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Endless: " + b"x" * 40_000, b"431"),
        (b"no http at all\r\n\r\n", b"400"),
    ],
)
async def test_a_head_that_is_no_head_is_refused_and_the_connection_closed(served: Any, said: Any, status: Any) -> None:
    heard = await converse(served.address, said)
    assert heard.startswith(b"HTTP/1.1 " + status)
    assert b'{"detail":"' in heard


# The server


async def test_a_port_that_is_taken_is_an_error_at_once(served: Any) -> None:
    host, _, port = served.address.rpartition(":")
    other = HttpServer(served.app, host, int(port))
    with pytest.raises(OSError, match="in use"):
        await other.start()
    await other.stop()


async def test_a_second_stop_does_nothing(served: Any) -> None:
    await served.server.stop()
    await served.server.stop()
