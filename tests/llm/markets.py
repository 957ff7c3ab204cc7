"""A market of any length, and what the indicators say of it."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from openoutcry.clock import NS
from openoutcry.events import Candle, Side
from openoutcry.instrument import Instrument, Kind
from openoutcry.llm.material import Material

HOUR_NS = 3_600 * NS
NOW_NS = 1_763_553_600 * NS  # 2025-11-19T12:00:00Z


def an_instrument(symbol: str = "BTCUSDT", kind: Kind = Kind.PERPETUAL, **more: Any) -> Instrument:
    return Instrument(
        **{
            "venue": "binance_futures",
            "symbol": symbol,
            "kind": kind,
            "coin": "BTC",
            "quote": "USDT",
            "settle": "USDT",
            "tick_size": Decimal("0.1"),
            "lot_size": Decimal("0.001"),
            **more,
        }
    )


def hourly(closes: Sequence[Any], wick: str = "2") -> list[Candle]:
    """Closed candles with these closes, the last of which ended now; each opens where the one before closed."""
    made = []
    before = Decimal(str(closes[0])) if closes else Decimal(0)
    for at, close in enumerate(Decimal(str(each)) for each in closes):
        open_ns = NOW_NS - (len(closes) - at) * HOUR_NS
        high, low = max(before, close) + Decimal(wick), min(before, close) - Decimal(wick)
        made.append(
            Candle(
                "binance_futures:BTCUSDT",
                Side.BOTH,
                3_600,
                open_ns,
                before,
                high,
                low,
                close,
                Decimal("10.5"),
                Decimal("10.5") * close,
                9,
                None,
                None,
                True,
                NOW_NS,
                "venue",
            )
        )
        before = close
    return made


def a_material(closes: Sequence[Any], **more: Any) -> Material:
    return Material(
        **{"instrument": an_instrument(), "interval_s": 3_600, "now_ns": NOW_NS, "candles": hourly(closes), **more}
    )


# Rises with pauses, falls with pauses, goes nowhere.
RISING = [60_000 + 40 * at + (0, 90, 150, 60, -80)[at % 5] for at in range(150)]
FALLING = [60_000 - 40 * at - (0, 90, 150, 60, -80)[at % 5] for at in range(150)]
NOWHERE = [60_000 + (0, 90, 150, 60, -80, -100)[at % 6] for at in range(150)]
