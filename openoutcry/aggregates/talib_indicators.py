"""The same lines from TA-Lib, for who trusts it more than us: the extra `indicators`, `llm.indicators = "talib"`.

Where TA-Lib answers 0 because nothing moved, this says None, as indicators.py does.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import talib

from openoutcry.aggregates.indicators import (
    ATR_LENGTH,
    BOLLINGER_LENGTH,
    BOLLINGER_WIDTH,
    EMA_LENGTHS,
    MACD_FAST,
    MACD_SIGNAL,
    MACD_SLOW,
    RSI_LENGTHS,
    SMA_LENGTHS,
    STOCHASTIC_LENGTH,
    STOCHASTIC_SMOOTHING,
    Bands,
    Line,
    Lines,
    Macd,
    Stochastic,
)
from openoutcry.events import Candle


def lines(candles: Sequence[Candle]) -> Lines:
    """Of closed candles of one instrument and interval, oldest first."""
    if not candles:
        # TA-Lib refuses to be asked about nothing.
        return Lines(
            sma=dict.fromkeys(SMA_LENGTHS, ()), ema=dict.fromkeys(EMA_LENGTHS, ()), macd=(),
            rsi=dict.fromkeys(RSI_LENGTHS, ()), bollinger=(), atr=(), stochastic=(), obv=(),
        )  # fmt: skip
    closes = _array(candle.close for candle in candles)
    highs, lows = _array(candle.high for candle in candles), _array(candle.low for candle in candles)
    moved = np.maximum.accumulate(closes != closes[0])
    macd = talib.MACD(closes, MACD_FAST, MACD_SLOW, MACD_SIGNAL)
    upper, middle, lower = talib.BBANDS(closes, BOLLINGER_LENGTH, BOLLINGER_WIDTH, BOLLINGER_WIDTH)
    return Lines(
        sma={length: _line(talib.SMA(closes, length)) for length in SMA_LENGTHS},
        ema={length: _line(talib.EMA(closes, length)) for length in EMA_LENGTHS},
        macd=[None if np.isnan(row[1]) else Macd(*map(float, row)) for row in zip(*macd, strict=True)],
        rsi={length: _line(np.where(moved, talib.RSI(closes, length), np.nan)) for length in RSI_LENGTHS},
        bollinger=[
            None if np.isnan(row[1]) else Bands(*map(float, row)) for row in zip(lower, middle, upper, strict=True)
        ],
        atr=_line(talib.ATR(highs, lows, closes, ATR_LENGTH)),
        stochastic=_stochastic(highs, lows, closes),
        obv=_line(talib.OBV(closes, _array(candle.volume for candle in candles))),
    )


def _stochastic(highs: Any, lows: Any, closes: Any) -> Sequence[Stochastic | None]:
    # Asked for k alone as well: with its mean, TA-Lib leaves out the first values of k.
    ks, _ = talib.STOCHF(highs, lows, closes, STOCHASTIC_LENGTH, 1)
    _, ds = talib.STOCHF(highs, lows, closes, STOCHASTIC_LENGTH, STOCHASTIC_SMOOTHING)
    flat = talib.MAX(highs, STOCHASTIC_LENGTH) == talib.MIN(lows, STOCHASTIC_LENGTH)
    told: list[Stochastic | None] = []
    for at, (k, d) in enumerate(zip(ks, ds, strict=True)):
        unsure = np.isnan(d) or flat[max(at + 1 - STOCHASTIC_SMOOTHING, 0) : at + 1].any()
        told.append(None if np.isnan(k) or flat[at] else Stochastic(float(k), None if unsure else float(d)))
    return told


def _array(values: Iterable[Any]) -> Any:
    return np.array([float(value) for value in values], dtype=np.float64)


def _line(values: Any) -> Line:
    return [None if np.isnan(value) else float(value) for value in values]
