"""Conversations over WebSocket with a real server."""

import asyncio
import json
from typing import Any

import pytest
import structlog
from websockets.exceptions import ConnectionClosed, InvalidStatus

from openoutcry.clock import NS
from openoutcry.events import Side
from openoutcry.venues.venue import Feed

NOW_NS = 1_763_553_600 * NS
MINUTE_NS = 60 * NS
BTC = "binance_futures:BTCUSDT"


async def closing(served: Any, path: str) -> tuple[int, str]:
    """How the server ends a conversation on that path."""
    async with served.ws(path) as client:
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(client.recv(), 5)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


async def hello(client: Any) -> None:
    """Return once the server follows for this client: it hears a client only after that."""
    await client.send('{"op":"ping"}')
    assert json.loads(await asyncio.wait_for(client.recv(), 5)) == {"op": "pong"}


def left(served: Any) -> bool:
    """Whether the server has noticed that everybody left."""
    return not served.push.bounds.followers and not served.admission.connections


async def heard(client: Any) -> Any:
    return json.loads(await asyncio.wait_for(client.recv(), 5))


# Candles


async def test_candles_grow_and_close(served: Any, make_candle: Any) -> None:
    async with served.ws("/ws/binance/BTCUSDT/ohlc") as client:
        await hello(client)
        served.market.grow(make_candle(BTC, 60, NOW_NS, closed=False))
        assert await heard(client) == {
            "exchange": "binance",
            "symbol": "BTCUSDT",
            "timestamp": "2025-11-19T12:00:00Z",
            "interval": "1m",
            "open": 101.25,
            "high": 102.5,
            "low": 100.5,
            "close": 101.5,
            "volume": 12.5,
            "quote_volume": 1268.75,
            "trades_count": 7,
            "is_closed": False,
        }
        served.market.grow(make_candle(BTC, 60, NOW_NS))
        assert (await heard(client))["is_closed"] is True


async def test_candles_of_one_turn_are_conflated_to_the_newest_of_each(served: Any, make_candle: Any) -> None:
    async with served.ws("/ws/binance/BTCUSDT/ohlc") as client:
        await hello(client)
        for close in ("1", "2", "3"):
            served.market.grow(make_candle(BTC, 60, NOW_NS, closed=False, close=close))
        served.market.grow(make_candle(BTC, 60, NOW_NS + MINUTE_NS, closed=False, close="4"))
        assert [(await heard(client))["close"] for _ in range(2)] == [3.0, 4.0]


async def test_one_source_serves_all_clients_and_ends_with_the_last(served: Any, until: Any) -> None:
    listeners = served.market.candle_listeners
    async with served.ws("/ws/binance/BTCUSDT/ohlc") as first:
        await hello(first)
        async with served.ws("/ws/BINANCE/btcusdt/ohlc?interval=1m") as second:
            await hello(second)
            assert len(listeners[BTC, 60]) == 1
            assert served.push.bounds.followers == 2
        async with served.ws("/ws/binance/BTCUSDT/ohlc?interval=5m") as third:
            await hello(third)
            assert len(listeners[BTC, 300]) == 1
    await until(lambda: left(served))
    assert not listeners[BTC, 60]
    assert not listeners[BTC, 300]


async def test_candles_carry_the_symbol_as_asked(served: Any, make_candle: Any) -> None:
    async with (
        served.ws("/ws/hyperliquid/BTCUSDT/ohlc?interval=1h") as pair,
        served.ws("/ws/hyperliquid/BTC/ohlc?interval=1h") as coin,
    ):
        await hello(pair)
        await hello(coin)
        served.market.grow(make_candle("hyperliquid:BTC", 3_600, NOW_NS))
        assert [(await heard(pair))["symbol"], (await heard(coin))["symbol"]] == ["BTCUSDT", "BTC"]


# Trades and liquidations of one instrument


async def test_large_trades_are_those_of_at_least_the_threshold(served: Any, make_trade: Any, until: Any) -> None:
    async with served.ws("/ws/binance/BTCUSDT/large_trades") as client:
        await hello(client)
        assert served.followed.now == [(BTC, frozenset({Feed.TRADES}))]
        served.bus.publish(
            [
                make_trade(BTC, "100000", "0.999"),
                make_trade(BTC, "100000", "1", Side.SELL, NOW_NS + 1_000),
                make_trade("binance_futures:ETHUSDT", "100000", "5"),
                make_trade(BTC, "50000", "3"),
            ]
        )
        assert await heard(client) == {
            "type": "large_trade",
            "exchange": "binance",
            "symbol": "BTCUSDT",
            "timestamp": "2025-11-19T12:00:00.000001Z",
            "side": "sell",
            "price": 100_000.0,
            "quantity": 1.0,
            "value": 100_000.0,
            "is_buyer_maker": True,
        }
        second = await heard(client)
        assert (second["value"], second["side"], second["is_buyer_maker"]) == (150_000.0, "buy", False)
    await until(lambda: left(served))
    assert served.followed.now == []


async def test_liquidations_of_one_instrument_have_no_floor(served: Any, make_liquidation: Any, until: Any) -> None:
    async with served.ws("/ws/bybit/BTCUSDT/liquidations") as client:
        await hello(client)
        assert served.followed.now == [("bybit:BTCUSDT", frozenset({Feed.LIQUIDATIONS}))]
        served.bus.publish([make_liquidation("bybit:BTCUSDT", "101500", "0.001")])
        assert await heard(client) == {
            "type": "liquidation",
            "exchange": "bybit",
            "symbol": "BTCUSDT",
            "timestamp": "2025-11-19T12:00:00Z",
            "side": "sell",
            "price": 101_500.0,
            "quantity": 0.001,
            "value": 101.5,
        }
    await until(lambda: left(served))
    assert served.followed.now == []


# Aggregated


async def test_aggregated_liquidations_come_from_three_exchanges_above_the_floor(
    served: Any, make_liquidation: Any
) -> None:
    async with (
        served.ws("/ws/all/liquidations") as default,
        served.ws("/ws/all/liquidations?min_value_usd=0") as everything,
        served.ws("/ws/all/liquidations?min_value_usd=20000.5") as large,
    ):
        for client in (default, everything, large):
            await hello(client)
        served.bus.publish(
            [
                make_liquidation(BTC, "100", "49.99"),
                make_liquidation("okx:BTC-USDT-SWAP", "100", "50", Side.BUY),
                make_liquidation("bybit:BTCUSDT", "100", "300"),
                make_liquidation("binance_delivery:BTCUSD_PERP", "100", "900"),
                make_liquidation("hyperliquid:BTC", "100", "900"),
                make_liquidation(BTC, "100", "200.005"),
            ]
        )
        said = [await heard(everything) for _ in range(4)]
        assert [(one["exchange"], one["symbol"], one["value"], one["side"]) for one in said] == [
            ("binance", "BTCUSDT", 4_999.0, "sell"),
            ("okx", "BTC-USDT-SWAP", 5_000.0, "buy"),
            ("bybit", "BTCUSDT", 30_000.0, "sell"),
            ("binance", "BTCUSDT", 20_000.5, "sell"),
        ]
        assert [(await heard(default))["value"] for _ in range(3)] == [5_000.0, 30_000.0, 20_000.5]
        assert [(await heard(large))["value"] for _ in range(2)] == [30_000.0, 20_000.5]


async def test_aggregated_trades_come_from_three_exchanges_above_the_floor(served: Any, make_trade: Any) -> None:
    async with (
        served.ws("/ws/all/large_trades") as default,
        served.ws("/ws/all/large_trades?min_value_usd=50000") as smaller,
    ):
        await hello(default)
        await hello(smaller)
        served.bus.publish(
            [
                make_trade(BTC, "1000", "49"),
                make_trade("hyperliquid:BTC", "1000", "50"),
                make_trade("okx:BTC-USDT-SWAP", "1000", "500"),
                make_trade("bybit:BTCUSDT", "1000", "100", Side.SELL),
            ]
        )
        assert [(await heard(smaller))["exchange"] for _ in range(2)] == ["hyperliquid", "bybit"]
        only = await heard(default)
        assert (only["type"], only["exchange"], only["is_buyer_maker"]) == ("large_trade", "bybit", True)


async def test_spikes_are_filtered_by_timeframe(served: Any, make_spike: Any) -> None:
    async with (
        served.ws("/ws/oi-vol") as everything,
        served.ws("/ws/oi-vol?timeframes=15m,%201h") as longer,
    ):
        await hello(everything)
        await hello(longer)
        served.bus.publish([make_spike(BTC, 300), make_spike(BTC, 3_600)])
        assert await heard(everything) == {
            "type": "oi_spike",
            "exchange": "binance",
            "symbol": "BTCUSDT",
            "timeframe": "5m",
            "z_oi": 3.12,
            "z_vol": 2.9,
            "confirmed": True,
            "timestamp": "2025-11-19T12:00:00Z",
            "price": 101_500.0,
            "open_interest": 5e9,
            "volume": 2e8,
        }
        assert (await heard(everything))["timeframe"] == "1h"
        assert (await heard(longer))["timeframe"] == "1h"


# What is asked wrongly


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/ws/kraken/BTCUSDT/ohlc", "unknown exchange 'kraken': there are binance, bybit, hyperliquid, okx"),
        ("/ws/binance/BTCUSDT/trades", "Invalid stream: trades"),
        ("/ws/hyperliquid/BTC/liquidations", "hyperliquid doesn't support liquidations"),
        ("/ws/binance/NOPE/ohlc", "binance has no symbol 'NOPE'; it lists 3, such as BTCUSDC, BTCUSDT, ETHUSDT"),
        (
            "/ws/bybit/BTCUSDT/ohlc?interval=xm",
            "interval 'xm' is not one of 1m 3m 5m 15m 30m 1h 2h 4h 6h 8h 12h 1d 3d 1w 1M",
        ),
        ("/ws/all/liquidations?min_value_usd=abc", "min_value_usd 'abc' is not a number from 0"),
        ("/ws/all/liquidations?min_value_usd=", "min_value_usd '' is not a number from 0"),
        ("/ws/all/liquidations?min_value_usd=nan", "min_value_usd 'nan' is not a number from 0"),
        ("/ws/all/large_trades?min_value_usd=-1", "min_value_usd '-1' is not a number from 0"),
        ("/ws/all/large_trades?min_value_usd=Infinity", "min_value_usd 'Infinity' is not a number from 0"),
        ("/ws/oi-vol?timeframes=5m,4h", "timeframe '4h' is not one of 5m 15m 1h"),
        ("/ws/oi-vol?timeframes=", "timeframe '' is not one of 5m 15m 1h"),
    ],
)
async def test_a_wrong_question_is_accepted_and_closed_with_the_reason(
    served: Any, path: Any, reason: Any, until: Any
) -> None:
    assert await closing(served, path) == (1008, reason)
    await until(lambda: left(served))
    assert served.push.bounds.followers == 0


async def test_a_reason_too_long_for_a_close_frame_is_cut(served: Any) -> None:
    code, reason = await closing(served, "/ws/" + "é" * 60 + "/BTCUSDT/ohlc")
    assert code == 1008
    assert reason.startswith("unknown exchange 'éé")
    assert len(reason.encode()) <= 123


async def test_a_query_too_long_is_refused(served: Any) -> None:
    assert await closing(served, "/ws/oi-vol?timeframes=" + "5m," * 1_000) == (1008, "a query may have 2048 bytes")


async def test_a_venue_without_a_listing_says_try_later(served: Any) -> None:
    served.market.down["bybit"] = "no connection"
    assert await closing(served, "/ws/bybit/BTCUSDT/ohlc") == (1013, "bybit is unavailable: no connection")


async def test_an_unknown_path_is_refused_at_the_handshake(served: Any) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await served.ws("/ws/nothing/here").__aenter__()
    assert refused.value.response.status_code == 403


async def test_a_fault_of_ours_closes_with_1011(served: Any) -> None:
    served.market.fails = RuntimeError("broken on purpose")
    with structlog.testing.capture_logs() as said:
        assert await closing(served, "/ws/binance/BTCUSDT/ohlc") == (1011, "Internal error")
    assert [line["event"] for line in said] == ["connection failed"]


# What clients send


async def test_a_client_may_say_what_it_likes_within_bounds(served: Any, make_candle: Any) -> None:
    async with served.ws("/ws/binance/BTCUSDT/ohlc") as client:
        for said in ("x", "[]", '{"op":3}', '{"op":"subscribe"}', b"\xff\x00", ""):
            await client.send(said)
        await hello(client)
        served.market.grow(make_candle(BTC, 60, NOW_NS))
        assert (await heard(client))["is_closed"] is True


async def test_a_message_too_large_is_closed_with_1009(served: Any) -> None:
    async with served.ws("/ws/binance/BTCUSDT/ohlc") as client:
        await client.send("x" * 70_000)
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(client.recv(), 5)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


async def test_a_client_that_talks_too_much_is_closed(served: Any) -> None:
    async with served.ws("/ws/binance/BTCUSDT/ohlc") as client:
        with pytest.raises(ConnectionClosed) as closed:
            for _ in range(200):
                await client.send('{"op":"ping"}')
            while True:
                await asyncio.wait_for(client.recv(), 5)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "too many frames from this client")


async def test_a_client_that_leaves_a_quiet_stream_is_noticed_at_once(served: Any, until: Any) -> None:
    for path in ("/ws/binance/BTCUSDT/liquidations", "/ws/all/liquidations", "/ws/oi-vol"):
        async with served.ws(path) as client:
            await hello(client)
            assert served.admission.connections == 1
            client.transport.abort()
            await until(lambda: left(served))
    assert served.followed.now == []


# Limits and ends


@pytest.mark.parametrize("limits", [{"sockets_per_address_max": 2, "loopback": True}, {"sockets_max": 2}])
async def test_too_many_connections_are_turned_away_with_1013(served: Any, limits: Any, until: Any) -> None:
    async with served.ws("/ws/oi-vol") as first, served.ws("/ws/oi-vol") as second:
        await hello(first)
        await hello(second)
        code, _ = await closing(served, "/ws/oi-vol")
        assert code == 1013
    await until(lambda: left(served))
    async with served.ws("/ws/oi-vol") as again:
        await hello(again)


async def test_the_end_of_the_server_is_1001_within_a_second(served: Any) -> None:
    async with served.ws("/ws/oi-vol") as client:
        await hello(client)
        began = asyncio.get_running_loop().time()
        await served.server.stop()
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert asyncio.get_running_loop().time() - began < 1.5
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001
