"""The built-in narrator: what the indicators say, in sentences made by rules. It is no language model, and says so first.

Each statement names the number it rests on; where there is too little for a rule it says that instead.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from openoutcry.aggregates.indicators import Indicators, Line, Swing
from openoutcry.instrument import Kind
from openoutcry.llm.figures import UNKNOWN, figure, length, moment, name, percent
from openoutcry.llm.material import Material

MODEL = "builtin-narrator"
PROVIDER = "builtin"
FIRST_LINE = "Rule-based summary, not a language model."

OVERBOUGHT, OVERSOLD = 70.0, 30.0
# Between these RSI says nothing about a trend.
STRONG, WEAK = 60.0, 40.0
# In ATRs: differences up to this are none.
EVEN = 0.25
STOCHASTIC_HIGH, STOCHASTIC_LOW = 80.0, 20.0
# A trend is named when so much of the evidence that is known points one way, and there are so many pieces of it.
AGREE_MIN = 0.6
EVIDENCE_MIN = 3
# In ATRs: a stop this far beyond a swing, a stop where no swing is near, the farthest swing that still is, and targets.
BEYOND, STOP, NEAR, TARGET, FAR_TARGET = 0.5, 2.0, 3.0, 3.0, 5.0
# A target nearer than so many times the risk is not worth it.
REWARD_MIN = 1.0
LEVELS_MAX = 3
QUESTION_SHOWN_MAX = 200

Way = Literal["up", "down", "sideways", "unknown"]


class Evidence(msgspec.Struct, frozen=True):
    """One observation, and where it points: 1 up, -1 down, 0 neither."""

    points: int
    says: str


class Plan(msgspec.Struct, frozen=True):
    """A trade: where in, where out when wrong, where out when right; and where the stop and first target come from."""

    long: bool
    entry: float
    stop: float
    targets: tuple[float, float]
    stop_from: str
    target_from: str

    @property
    def reward(self) -> float:
        """The first target's distance in risks."""
        return abs(self.targets[0] - self.entry) / abs(self.entry - self.stop)


def narrate(material: Material, told: Indicators, question: str, notes: Sequence[str] = ()) -> str:
    """All sections in Markdown, for at least one closed candle; `notes` before them."""
    evidence = list(_evidence(material, told))
    way = trend(evidence)
    sections = {
        "Trend": _trend(way, evidence, material),
        "Key levels": _levels(material, told),
        "Signals": _signals(material, told),
        "Suggestion": _suggestion(material, told, way),
        "Risks": _risks(material, told),
    }
    head = f"**{name(material.instrument.coin)}** on {name(material.instrument.venue)}, {length(material.interval_s)}, "
    head += f"{moment(material.now_ns)}: {figure(material.last)}"
    if material.change is not None:
        head += f" ({percent(material.change)} in 24 h)"
    text = "\n\n".join(f"## {title}\n" + "\n".join(f"- {line}" for line in lines) for title, lines in sections.items())
    return "\n\n".join([FIRST_LINE, *notes, *_asked(question), head, text]) + "\n"


def table(material: Material, told: Indicators) -> str:
    """The numbers that the sentences rest on, as a table in Markdown."""
    rows = {
        "Close": figure(material.candles[-1].close),
        **{f"SMA{size}": _newest(line) for size, line in told.sma.items()},
        **{f"EMA{size}": _newest(line) for size, line in told.ema.items()},
        **{f"RSI{size}": UNKNOWN if value is None else f"{value:.1f}" for size, value in told.rsi.items()},
        "MACD": UNKNOWN if told.macd is None else _row(told.macd.macd, told.macd.signal, told.macd.histogram),
        "Bollinger": UNKNOWN
        if told.bollinger is None
        else _row(told.bollinger.lower, told.bollinger.middle, told.bollinger.upper),
        "ATR14": figure(told.atr),
        "Stochastic %K": UNKNOWN if told.stochastic is None else f"{told.stochastic.k:.1f}",
        "VWAP": figure(told.vwap),
        "OBV": figure(told.obv),
        "Volume": figure(material.candles[-1].volume),
    }
    head = (
        f"| {name(material.instrument.coin)}, {length(material.interval_s)} | {moment(material.now_ns)} |\n|---|---|\n"
    )
    return head + "".join(f"| {what} | {value} |\n" for what, value in rows.items())


def trend(evidence: Sequence[Evidence]) -> Way:
    """What most of the evidence says."""
    if len(evidence) < EVIDENCE_MIN:
        return "unknown"
    lean = sum(each.points for each in evidence) / len(evidence)
    return "up" if lean >= AGREE_MIN else "down" if lean <= -AGREE_MIN else "sideways"


def plan(material: Material, told: Indicators, *, long: bool) -> Plan | None:
    """Entry now, stop beyond the nearest swing, target at the next swing on the other side; None without an ATR."""
    atr, entry = told.atr, float(material.last)
    if not atr:
        return None
    way = 1.0 if long else -1.0
    behind = _nearest(told.swings, "low" if long else "high", entry, above=not long)
    ahead = _nearest(told.swings, "high" if long else "low", entry, above=long)
    if behind is not None and abs(entry - behind.price) <= NEAR * atr:
        stop, stop_from = (
            behind.price - way * BEYOND * atr,
            f"{BEYOND:g} ATR beyond the swing {behind.side} at {figure(behind.price)}",
        )
    else:
        stop, stop_from = entry - way * STOP * atr, f"{STOP:g} ATR, as no swing is near"
    if ahead is not None and atr <= abs(ahead.price - entry) < FAR_TARGET * atr:
        first, target_from = ahead.price, f"the swing {ahead.side} of {moment(ahead.open_ns)}"
    else:
        first, target_from = entry + way * TARGET * atr, f"{TARGET:g} ATR, as no swing stands there"
    far = entry + way * FAR_TARGET * atr
    if min(stop, first, far) <= 0:
        return None
    return Plan(long, entry, stop, (first, far), stop_from, target_from)


def _asked(question: str) -> Iterator[str]:
    shown = " ".join(question.split())[:QUESTION_SHOWN_MAX]
    if shown:
        # As code: what a caller wrote must not become our headings or links.
        yield f"You asked: `{shown.replace('`', chr(39))}`. Rules cannot read questions; this is what they say of the market."


def _evidence(material: Material, told: Indicators) -> Iterator[Evidence]:
    close = float(material.candles[-1].close)
    # What differs by less is the same: otherwise a market that goes nowhere would have a trend every other candle.
    same = EVEN * (told.atr or 0.0)
    averages = [(size, line[-1]) for size, line in told.ema.items() if line]
    known = [(size, value) for size, value in averages if value is not None]
    for size, value in known:
        yield _compared("close", close, f"EMA{size}", value, same)
    if len(known) > 1:
        (short, fast), (long, slow) = known[0], known[-1]
        yield _compared(f"EMA{short}", fast, f"EMA{long}", slow, same)
    if told.macd is not None:
        yield _compared("MACD", told.macd.macd, "zero", 0.0, same)
    rsi = told.rsi[14]
    if rsi is not None:
        yield Evidence(1 if rsi > STRONG else -1 if rsi < WEAK else 0, f"RSI14 at {rsi:.1f}")


def _compared(what: str, value: float, of: str, other: float, same: float) -> Evidence:
    if abs(value - other) <= same:
        return Evidence(0, f"{what} at {of}: {figure(value)} and {figure(other)}")
    above = value > other
    return Evidence(
        1 if above else -1, f"{what} {'above' if above else 'below'} {of}: {figure(value)} and {figure(other)}"
    )


def _trend(way: Way, evidence: Sequence[Evidence], material: Material) -> Iterator[str]:
    if way == "unknown":
        yield f"Not enough evidence to name a trend: {_count(len(material.candles), 'closed candle')}."
    else:
        up, down = (sum(each.points == points for each in evidence) for points in (1, -1))
        yield f"Trend: **{way}**; of {len(evidence)} observations {up} point up and {down} down."
    yield from (each.says[0].upper() + each.says[1:] + "." for each in evidence)
    first, last = material.candles[0], material.candles[-1]
    if first is not last and first.open:
        change = float(last.close) / float(first.open) - 1
        yield f"Over {_count(len(material.candles), 'candle')}: {percent(change)}."


def _levels(material: Material, told: Indicators) -> Iterator[str]:
    price = float(material.last)
    apart = EVEN * (told.atr or 0.0)
    above = _spread(sorted(swing.price for swing in told.swings if swing.price > price), apart)
    below = _spread(sorted((swing.price for swing in told.swings if swing.price < price), reverse=True), apart)
    if above:
        yield f"Resistance at swings: {', '.join(map(figure, above))}."
    if below:
        yield f"Support at swings: {', '.join(map(figure, below))}."
    low, high = min(candle.low for candle in material.candles), max(candle.high for candle in material.candles)
    yield f"Range of {_count(len(material.candles), 'candle')}: {figure(low)} to {figure(high)}."
    if told.bollinger is not None:
        yield f"Bollinger 20/2: {figure(told.bollinger.lower)} to {figure(told.bollinger.upper)}."
    if told.vwap is not None:
        yield f"VWAP: {figure(told.vwap)}, the price is {'above' if price > told.vwap else 'at or below'} it."
    if not above and not below:
        yield "No swing highs or lows stand out yet."


def _spread(prices: Sequence[float], apart: float) -> Sequence[float]:
    """The first few that are so far from each other: levels side by side are one."""
    kept: list[float] = []
    for price in prices:
        if len(kept) < LEVELS_MAX and (not kept or abs(price - kept[-1]) > apart):
            kept.append(price)
    return kept


def _signals(material: Material, told: Indicators) -> Iterator[str]:
    rsi = told.rsi[14]
    if rsi is not None:
        state = "overbought" if rsi > OVERBOUGHT else "oversold" if rsi < OVERSOLD else "neutral"
        yield f"RSI14 {rsi:.1f}: {state}."
    if told.macd is not None:
        histograms = [each for each in told.histogram if each is not None]
        turn = ""
        if len(histograms) > 1:
            turn = ", growing" if abs(histograms[-1]) > abs(histograms[-2]) else ", shrinking"
        yield f"MACD histogram {figure(told.macd.histogram)}: {'for' if told.macd.histogram > 0 else 'against'} the buyers{turn}."
    if told.stochastic is not None:
        k = told.stochastic.k
        state = "at the top" if k > STOCHASTIC_HIGH else "at the bottom" if k < STOCHASTIC_LOW else "in the middle"
        yield f"Stochastic %K {k:.1f}: {state} of its range."
    if told.bollinger is not None:
        yield _banded(float(material.candles[-1].close), told.bollinger.lower, told.bollinger.upper)
    if told.atr:
        yield f"ATR14 {figure(told.atr)}: {percent(told.atr / float(material.last)).lstrip('+')} of the price."
    yield from _volume(material)
    for each in told.divergences:
        further = "a higher high" if each.side == "bearish" else "a lower low"
        yield f"{each.side.capitalize()} divergence: price made {further} ({figure(each.second.price)}), RSI14 did not follow."
    yield from _flow(material)
    if rsi is None:
        yield "Too few candles, or too little movement, for RSI14."


def _banded(close: float, lower: float, upper: float) -> str:
    if close > upper:
        return "Close above the upper Bollinger band."
    if close < lower:
        return "Close below the lower Bollinger band."
    if upper == lower:
        return "The Bollinger bands have no width: the price stood still."
    return f"Close at {(close - lower) / (upper - lower) * 100:.0f}% of the width of the Bollinger bands."


def _volume(material: Material) -> Iterator[str]:
    volumes = [float(candle.volume) for candle in material.candles]
    mean = sum(volumes) / len(volumes)
    if len(volumes) > 1 and mean > 0:
        yield f"Volume of the last candle: {volumes[-1] / mean:.2f} times the mean of {len(volumes)}."


def _flow(material: Material) -> Iterator[str]:
    if material.bought is not None and material.sold is not None and material.bought + material.sold > 0:
        share = float(material.bought) / float(material.bought + material.sold) * 100
        yield f"Buyers took {share:.0f}% of what was traded."
    before, now = material.open_interest_before, material.open_interest
    if before and now is not None:
        yield f"Open interest over these candles: {percent(float(now) / float(before) - 1)}."
    if material.funding_rate is not None:
        payer = "longs pay shorts" if material.funding_rate > 0 else "shorts pay longs"
        yield f"Funding {percent(material.funding_rate, 4)}" + (f": {payer}." if material.funding_rate else ".")


def _suggestion(material: Material, told: Indicators, way: Way) -> Iterator[str]:
    reason = _wait(material, told, way)
    made = None if reason else plan(material, told, long=way == "up")
    if made is None:
        yield f"**Wait**: {reason or 'no sensible stop and target can be drawn from the volatility.'}"
    elif made.reward < REWARD_MIN:
        yield f"**Wait**: the first target ({figure(made.targets[0])}) is nearer than the stop ({figure(made.stop)})."
    else:
        yield f"**{'Long' if made.long else 'Short'}**, entry around {figure(made.entry)}."
        yield f"Stop: {figure(made.stop)} ({made.stop_from})."
        yield f"First target: {figure(made.targets[0])} ({made.target_from}), {made.reward:.1f} times the risk."
        yield f"Second target: {figure(made.targets[1])} ({FAR_TARGET:g} ATR)."


def _wait(material: Material, told: Indicators, way: Way) -> str:
    """Why not to trade; empty where nothing speaks against it."""
    rsi = told.rsi[14]
    if way == "unknown":
        return "there is not enough evidence for a direction."
    if way == "sideways":
        return "the evidence names no direction."
    if not told.atr:
        return "the volatility is unknown or nil, so no stop can be placed."
    if material.missing:
        return "candles are missing among those this rests on."
    if way == "up" and rsi is not None and rsi > OVERBOUGHT:
        return f"the trend is up, but RSI14 {rsi:.1f} is overbought."
    if way == "down" and rsi is not None and rsi < OVERSOLD:
        return f"the trend is down, but RSI14 {rsi:.1f} is oversold."
    against = {"up": "bearish", "down": "bullish"}[way]
    if any(each.side == against for each in told.divergences):
        return f"the trend is {way}, but there is a {against} divergence."
    if way == "down" and material.instrument.kind is Kind.SPOT:
        return "the trend is down, and a spot market cannot be sold short."
    return ""


def _risks(material: Material, told: Indicators) -> Iterator[str]:
    if material.missing:
        stretches = ", ".join(
            f"{moment(start_ns)} to {moment(end_ns)}" for start_ns, end_ns in material.missing[:LEVELS_MAX]
        )
        more = f" and {len(material.missing) - LEVELS_MAX} more" if len(material.missing) > LEVELS_MAX else ""
        yield f"Missing: {_count(material.missing_candles, 'candle')} ({stretches}{more}); indicators run across them as if they were not there."
    lacking = [f"EMA{size}" for size, line in told.ema.items() if not line or line[-1] is None]
    lacking += [
        text for text, value in (("MACD", told.macd), ("RSI14", told.rsi[14]), ("ATR14", told.atr)) if value is None
    ]
    if lacking:
        yield f"Unknown with {_count(len(material.candles), 'candle')}: {', '.join(lacking)}."
    yield "Rules know nothing of news, liquidity or your position, and the past of a price does not bind it. No advice."


def _newest(line: Line) -> str:
    return figure(line[-1]) if line else UNKNOWN


def _row(*values: float) -> str:
    return " / ".join(map(figure, values))


def _count(many: int, what: str) -> str:
    return f"{many} {what}" if many == 1 else f"{many} {what}s"


def _nearest(swings: Sequence[Swing], side: str, price: float, *, above: bool) -> Swing | None:
    fitting = [each for each in swings if each.side == side and (each.price > price if above else each.price < price)]
    return min(fitting, key=lambda each: abs(each.price - price), default=None)
