"""Indicators of closed candles, each in one pass: a value once there is enough to tell it, None before, never a guess.

Seeds are TA-Lib's, so that both tell the same: an EMA begins with the mean of its first values, Wilder's averages with
the mean of their first changes, the fast line of MACD together with the slow one. Where nothing moved, TA-Lib says 0 for
RSI and stochastic; here that is None. These are floats: they describe, nothing is paid by them.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from openoutcry.events import Candle

SMA_LENGTHS = (5, 10, 20)
EMA_LENGTHS = (20, 50, 100)
RSI_LENGTHS = (7, 14)
MACD_FAST, MACD_SLOW, MACD_SIGNAL = 12, 26, 9
BOLLINGER_LENGTH, BOLLINGER_WIDTH = 20, 2.0
ATR_LENGTH = 14
STOCHASTIC_LENGTH, STOCHASTIC_SMOOTHING = 14, 3
# A swing stands out among so many candles on either side.
SWING_REACH = 3
# So many of the last values are told of what is read as a line.
RECENT = 5

Line = Sequence[float | None]


class Macd(msgspec.Struct, frozen=True):
    """Fast less slow average, the average of that, and the one less the other."""

    macd: float
    signal: float
    histogram: float


class Bands(msgspec.Struct, frozen=True):
    """A mean, and so many standard deviations on either side."""

    lower: float
    middle: float
    upper: float


class Stochastic(msgspec.Struct, frozen=True):
    """Where the close stands in the range of the last candles, 0 to 100, and the mean of the last of these."""

    k: float
    d: float | None


class Lines(msgspec.Struct, frozen=True, kw_only=True):
    """One value for each candle; averages and RSI by their length."""

    sma: Mapping[int, Line]
    ema: Mapping[int, Line]
    macd: Sequence[Macd | None]
    rsi: Mapping[int, Line]
    bollinger: Sequence[Bands | None]
    atr: Line
    stochastic: Sequence[Stochastic | None]
    obv: Line


class Swing(msgspec.Struct, frozen=True):
    """A high above, or a low below, the candles around it; `rsi` (the longer) as it was then."""

    side: Literal["high", "low"]
    open_ns: int
    price: float
    rsi: float | None


class Divergence(msgspec.Struct, frozen=True):
    """Price made a further high or low that RSI did not follow. Bearish: of two highs; bullish: of two lows."""

    side: Literal["bearish", "bullish"]
    first: Swing
    second: Swing


class Indicators(msgspec.Struct, frozen=True, kw_only=True):
    """All of them after the last candle. `sma`, `ema`, `histogram`: the last RECENT values, newest last."""

    sma: Mapping[int, Line]
    ema: Mapping[int, Line]
    macd: Macd | None
    histogram: Line
    rsi: Mapping[int, float | None]
    bollinger: Bands | None
    atr: float | None
    vwap: float | None
    stochastic: Stochastic | None
    obv: float | None
    swings: Sequence[Swing]
    divergences: Sequence[Divergence]


def lines(candles: Sequence[Candle]) -> Lines:
    """Of closed candles of one instrument and interval, oldest first."""
    closes = [float(candle.close) for candle in candles]
    bars = [(float(candle.high), float(candle.low), close) for candle, close in zip(candles, closes, strict=True)]
    macd, bollinger, atr, stochastic, obv = MovingMacd(), Bollinger(), Atr(), MovingStochastic(), Obv()
    return Lines(
        sma={length: _each(Sma(length).put, closes) for length in SMA_LENGTHS},
        ema={length: _each(Ema(length).put, closes) for length in EMA_LENGTHS},
        macd=[macd.put(close) for close in closes],
        rsi={length: _each(Rsi(length).put, closes) for length in RSI_LENGTHS},
        bollinger=[bollinger.put(close) for close in closes],
        atr=[atr.put(*bar) for bar in bars],
        stochastic=[stochastic.put(*bar) for bar in bars],
        obv=[obv.put(close, float(candle.volume)) for candle, close in zip(candles, closes, strict=True)],
    )


def indicators(candles: Sequence[Candle], make: Callable[[Sequence[Candle]], Lines] = lines) -> Indicators:
    """What `make` tells of closed candles, oldest first, after the last of them; and what only we compute."""
    made = make(candles)
    found = swings(candles, made.rsi[RSI_LENGTHS[-1]])
    return Indicators(
        sma={length: line[-RECENT:] for length, line in made.sma.items()},
        ema={length: line[-RECENT:] for length, line in made.ema.items()},
        macd=made.macd[-1] if made.macd else None,
        histogram=[None if each is None else each.histogram for each in made.macd[-RECENT:]],
        rsi={length: _last(line) for length, line in made.rsi.items()},
        bollinger=made.bollinger[-1] if made.bollinger else None,
        atr=_last(made.atr),
        vwap=vwap(candles),
        stochastic=made.stochastic[-1] if made.stochastic else None,
        obv=_last(made.obv),
        swings=found,
        divergences=divergences(found),
    )


class Sma:
    """Mean of the last `length` values."""

    def __init__(self, length: int) -> None:
        self._window: deque[float] = deque(maxlen=length)

    def put(self, value: float) -> float | None:
        """The mean with `value`."""
        # Summed anew each time: a running sum would carry the rounding of all that went through it.
        self._window.append(value)
        return math.fsum(self._window) / len(self._window) if len(self._window) == self._window.maxlen else None


class Ema:
    """Exponential mean, each new value weighing 2 / (length + 1); it begins with the mean of the first `length`."""

    def __init__(self, length: int) -> None:
        self._weight = 2.0 / (length + 1)
        self._seed = Sma(length)
        self._mean: float | None = None

    def put(self, value: float) -> float | None:
        """The mean with `value`."""
        if self._mean is None:
            self._mean = self._seed.put(value)
        else:
            self._mean += (value - self._mean) * self._weight
        return self._mean


class MovingMacd:
    """MACD 12/26/9. The fast mean begins with the values just before the slow one is known."""

    def __init__(self) -> None:
        self._wait = MACD_SLOW - MACD_FAST
        self._fast, self._slow, self._signal = Ema(MACD_FAST), Ema(MACD_SLOW), Ema(MACD_SIGNAL)

    def put(self, value: float) -> Macd | None:
        """All three with `value`; None until the signal is known."""
        slow = self._slow.put(value)
        fast = self._fast.put(value) if self._wait <= 0 else None
        self._wait -= 1
        if fast is None or slow is None:
            return None
        signal = self._signal.put(fast - slow)
        return None if signal is None else Macd(fast - slow, signal, fast - slow - signal)


class Wilder:
    """Wilder's mean, each new value weighing 1 / length; it begins with the mean of the first `length`."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._seed = Sma(length)
        self._mean: float | None = None

    def put(self, value: float) -> float | None:
        """The mean with `value`."""
        if self._mean is None:
            self._mean = self._seed.put(value)
        else:
            self._mean = (self._mean * (self._length - 1) + value) / self._length
        return self._mean


class Rsi:
    """Wilder's relative strength: the share of gains in all changes, 0 to 100; None where nothing ever changed."""

    def __init__(self, length: int) -> None:
        self._gains, self._losses = Wilder(length), Wilder(length)
        self._before: float | None = None

    def put(self, close: float) -> float | None:
        """The strength with `close`."""
        before, self._before = self._before, close
        if before is None:
            return None
        gain = self._gains.put(max(close - before, 0.0))
        loss = self._losses.put(max(before - close, 0.0))
        if gain is None or loss is None or gain + loss == 0.0:
            return None
        return 100.0 * gain / (gain + loss)


class Bollinger:
    """Bands of 2 deviations (of the whole population) around the mean of 20."""

    def __init__(self) -> None:
        self._window: deque[float] = deque(maxlen=BOLLINGER_LENGTH)

    def put(self, value: float) -> Bands | None:
        """The bands with `value`."""
        self._window.append(value)
        if len(self._window) < BOLLINGER_LENGTH:
            return None
        mean = math.fsum(self._window) / BOLLINGER_LENGTH
        # From the mean, not from a sum of squares, in which a quiet market is lost to rounding.
        spread = math.sqrt(math.fsum((each - mean) ** 2 for each in self._window) / BOLLINGER_LENGTH) * BOLLINGER_WIDTH
        return Bands(mean - spread, mean, mean + spread)


class Atr:
    """Wilder's mean of 14 true ranges; the first candle has none, as nothing closed before it."""

    def __init__(self) -> None:
        self._mean = Wilder(ATR_LENGTH)
        self._before: float | None = None

    def put(self, high: float, low: float, close: float) -> float | None:
        """The mean with this candle."""
        before, self._before = self._before, close
        if before is None:
            return None
        return self._mean.put(max(high, before) - min(low, before))


class MovingStochastic:
    """Fast stochastic 14/3; unknown where the range of 14 candles is a single price."""

    def __init__(self) -> None:
        self._highs: deque[float] = deque(maxlen=STOCHASTIC_LENGTH)
        self._lows: deque[float] = deque(maxlen=STOCHASTIC_LENGTH)
        self._last: deque[float | None] = deque(maxlen=STOCHASTIC_SMOOTHING)

    def put(self, high: float, low: float, close: float) -> Stochastic | None:
        """The place of `close` with this candle."""
        self._highs.append(high)
        self._lows.append(low)
        if len(self._highs) < STOCHASTIC_LENGTH:
            return None
        lowest, highest = min(self._lows), max(self._highs)
        k = None if highest == lowest else 100.0 * (close - lowest) / (highest - lowest)
        self._last.append(k)
        known = [each for each in self._last if each is not None]
        d = math.fsum(known) / len(known) if len(known) == STOCHASTIC_SMOOTHING else None
        return None if k is None else Stochastic(k, d)


class Obv:
    """On-balance volume: what traded while the price rose, less what traded while it fell, from the first candle on."""

    def __init__(self) -> None:
        self._before: float | None = None
        self._balance = 0.0

    def put(self, close: float, volume: float) -> float:
        """The balance with this candle; the first counts as risen."""
        before, self._before = self._before, close
        if before is None or close > before:
            self._balance += volume
        elif close < before:
            self._balance -= volume
        return self._balance


def vwap(candles: Sequence[Candle]) -> float | None:
    """What was paid on average, of all that traded in these candles; None where nothing did."""
    volume = math.fsum(float(candle.volume) for candle in candles)
    return math.fsum(float(candle.quote_volume) for candle in candles) / volume if volume > 0 else None


def swings(candles: Sequence[Candle], rsi: Line) -> Sequence[Swing]:
    """Where price turned, oldest first: the last SWING_REACH candles cannot have turned yet."""
    found: list[Swing] = []
    highs = [float(candle.high) for candle in candles]
    lows = [-float(candle.low) for candle in candles]
    for at in range(SWING_REACH, len(candles) - SWING_REACH):
        if _turns(highs, at):
            found.append(Swing("high", candles[at].open_ns, highs[at], rsi[at]))
        if _turns(lows, at):
            found.append(Swing("low", candles[at].open_ns, -lows[at], rsi[at]))
    return found


def divergences(found: Sequence[Swing]) -> Sequence[Divergence]:
    """Of the last two highs and the last two lows, whose RSI is known."""
    told: list[Divergence] = []
    highs = [swing for swing in found if swing.side == "high"][-2:]
    lows = [swing for swing in found if swing.side == "low"][-2:]
    if len(highs) == 2 and highs[1].price > highs[0].price and _below(highs[1].rsi, highs[0].rsi):
        told.append(Divergence("bearish", *highs))
    if len(lows) == 2 and lows[1].price < lows[0].price and _below(lows[0].rsi, lows[1].rsi):
        told.append(Divergence("bullish", *lows))
    return told


def _turns(values: Sequence[float], at: int) -> bool:
    # Of equal ones side by side the first counts, and only if it goes down again within reach.
    before, after = values[at - SWING_REACH : at], values[at + 1 : at + 1 + SWING_REACH]
    return max(before) < values[at] >= max(after) and values[at] > min(after)


def _below(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and one < other


def _each(put: Callable[[float], float | None], values: Sequence[float]) -> Line:
    return [put(value) for value in values]


def _last(line: Line) -> float | None:
    return line[-1] if line else None
