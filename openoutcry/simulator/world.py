"""One seeded world: what happened on every venue at any moment, made when it is asked for, and the truth tests compare with.

Nothing is stored and nothing is drawn in sequence: every order is a pure function of (seed, instrument, its number), every
minute's price of (seed, coin, minute). So the past before the start is there, any stretch can be made alone, and what is
streamed now is what history will say later. The same seed gives the same world on any machine, whenever it was started
(`origin_ns` moves only how far back it can look).

    world = World(seed=7, listings=standard(origin_ns))
    world.orders("binance_futures:BTCUSDT", start_ns, end_ns)     # Tape: one row per taker order and price (an "aggregate trade")
    world.trades(...)                                             # Tape: one row per fill; ids without holes, except reserved ones
    world.candles("binance_futures:BTCUSDT", 60, start_ns, end_ns)   # list[Bar], the fold of exactly those trades

Prices of a coin share a market factor and a factor of the coin on all venues; each instrument adds a small basis of its own.
All ranges are [start_ns, end_ns); times are whole milliseconds in ns; prices are ticks and sizes lots (`tape.Speller` spells
them). An instrument has no past before `listed_ns` and nothing from `expires_ns` on.
"""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple

import numpy as np

from openoutcry.events import NS, WEEK_OFFSET_S, WEEK_S
from openoutcry.simulator.noise import (
    Floats,
    Ints,
    Kept,
    bell,
    bell_one,
    grow,
    key,
    mix,
    mix_one,
    share,
    share_one,
    waves,
)
from openoutcry.simulator.tape import Bar, Bars, Flags, Listing, Row, Speller, Tape, coins_e8, joined

MS = 1_000_000
MINUTE_NS = 60 * NS
DAY_MINUTES = 1_440
DAY_NS = DAY_MINUTES * MINUTE_NS
BLOCK_MINUTES = 15
SHORT_NS = 2 * BLOCK_MINUTES * MINUTE_NS
CHUNK_ORDERS = 25_000  # orders of a day are made in chunks that stay in the processor's cache
FIRST_DAY = 19_723  # 2024-01-01: orders are counted from here
LAST_DAY = FIRST_DAY + 36_500
FUNDING_TURN_DAYS = 5
HOUR_S = 3_600

BLOCKS_KEPT = 400
DAYS_KEPT = 300
MINUTE_BARS_KEPT = 100
HOUR_BARS_KEPT = 4_000

_FLICKER_MS = 5_000
_FLICKER = 0.00012
_LOOK_BACK = 5  # minutes whose move causes liquidations
_CASCADE = 0.0045  # such a move starts one
_CASCADE_MOST = 40
_SPREAD = 0.000003
_PUSH = 250.0
_FUNDING_BASE_E8 = 10_000
_FUNDING_LENGTH_S = 28_800

_FINE = ((1, 0.00024), (4, 0.00048), (16, 0.0012), (64, 0.0018))
_COARSE = ((256, 0.004), (1_024, 0.0075), (4_096, 0.015), (16_384, 0.03), (65_536, 0.06))
_REGIME = ((240, 0.3), (1_440, 0.35), (5_760, 0.25))
_BASIS = ((16, 0.00006), (240, 0.00015), (2_880, 0.0002))
_ACTIVITY = ((4, 0.2), (30, 0.25), (240, 0.3))
_OWN_ACTIVITY = ((1, 0.25), (12, 0.25))
_INTEREST = ((5, 0.0006), (45, 0.004), (400, 0.015), (5_000, 0.05))
_RATE = ((8, 4_000.0), (60, 5_000.0), (400, 6_000.0))


class Settlement(NamedTuple):
    """A funding rate (x 10**8) of the period that ends at `funding_ns`, which is `interval_s` long.

    `stamp_ns` is what the venue writes: some ms past the hour.
    """

    rate_e8: int
    funding_ns: int
    interval_s: int
    stamp_ns: int

    @property
    def rate(self) -> Decimal:
        """The rate itself, with eight digits."""
        return Decimal(self.rate_e8).scaleb(-8)


class Quoted(NamedTuple):
    """Best bid and ask in ticks, with their sizes in lots."""

    bid_ticks: int
    bid_lots: int
    ask_ticks: int
    ask_lots: int


class _Factor(NamedTuple):
    """Log price of the market or of a coin at each minute of a day, from `_LOOK_BACK` before it to one after it."""

    level: Floats
    regime: Floats


class _Day(NamedTuple):
    """What is fixed for one instrument and day: values at minute marks (one more than minutes), counts per minute."""

    price: Floats  # ticks, without flicker
    fair: Floats  # ticks, without the instrument's basis: its index
    regime: Floats
    interest: Floats  # lots
    before: Ints  # orders before each minute, counted from FIRST_DAY
    liquidations: Ints
    falling: Flags


class World:
    """What is true. `activity` multiplies how many orders there are (another world, then)."""

    def __init__(self, seed: int, listings: Sequence[Listing], activity: float = 1.0) -> None:
        self.seed = seed
        self._activity = activity
        self._listings = {listing.name: listing for listing in listings}
        self._spellers = {listing.name: Speller(listing.instrument) for listing in listings}
        self._streams: dict[tuple[str, ...], int] = {}
        self._factors: Kept[tuple[str, int], _Factor] = Kept(DAYS_KEPT)
        self._days: Kept[tuple[str, int], _Day] = Kept(DAYS_KEPT)
        self._counts: dict[str, Ints] = {}
        self._blocks: Kept[tuple[str, int], Tape] = Kept(BLOCKS_KEPT)
        self._minute_bars: Kept[tuple[str, int], Bars] = Kept(MINUTE_BARS_KEPT)
        self._hour_bars: Kept[tuple[str, int], Bars] = Kept(HOUR_BARS_KEPT)

    # Listings

    def listings(self, venue: str | None = None) -> Sequence[Listing]:
        """All instruments (of a venue), in the order they were given."""
        return [a for a in self._listings.values() if venue is None or a.instrument.venue == venue]

    def listing(self, name: str) -> Listing:
        """By `venue:symbol`. Raises KeyError."""
        return self._listings[name]

    def speller(self, name: str) -> Speller:
        """Writes its prices and sizes. Raises KeyError."""
        return self._spellers[name]

    def life(self, name: str) -> tuple[int, int]:
        """[start_ns, end_ns) of its trading."""
        instrument = self._listings[name].instrument
        start_ns = max(instrument.listed_ns or 0, FIRST_DAY * DAY_NS)
        return start_ns, instrument.expires_ns or LAST_DAY * DAY_NS

    # Orders and trades

    def orders(self, name: str, start_ns: int, end_ns: int) -> Tape:
        """Orders of the stretch."""
        listing = self._listings[name]
        start_ns, end_ns = self._within(name, start_ns, end_ns)
        first, last = start_ns // MINUTE_NS // BLOCK_MINUTES, (end_ns - 1) // MINUTE_NS // BLOCK_MINUTES
        if end_ns <= start_ns:
            return self._block(listing, first)[:0]
        return joined([self._block(listing, block).between(start_ns, end_ns) for block in range(first, last + 1)])

    def trades(self, name: str, start_ns: int, end_ns: int) -> Tape:
        """Trades of the stretch."""
        return self.orders(name, start_ns, end_ns).split()

    def orders_from(self, name: str, order_id: int, limit: int, before_ns: int) -> Tape:
        """Up to `limit` orders with ids from `order_id` on, made before `before_ns`."""
        listing = self._listings[name]
        start_ns, before_ns = self._within(name, self._minute_of_order(listing, order_id) * MINUTE_NS, before_ns)
        tapes = [self._block(listing, start_ns // MINUTE_NS // BLOCK_MINUTES)[:0]]
        rows = 0
        while start_ns < before_ns and rows < limit:
            end_ns = (start_ns // MINUTE_NS // BLOCK_MINUTES + 1) * BLOCK_MINUTES * MINUTE_NS
            tape = self.orders(name, start_ns, min(end_ns, before_ns))
            tape = tape[tape.id >= order_id]
            tapes.append(tape)
            rows += len(tape)
            start_ns = end_ns
        return joined(tapes)[:limit]

    def trades_from(self, name: str, trade_id: int, limit: int, before_ns: int) -> Tape:
        """Up to `limit` trades with ids from `trade_id` on, made before `before_ns`."""
        trades = self.orders_from(name, self.order_of_trade(name, trade_id), limit, before_ns).split()
        return trades[trades.first_id >= trade_id][:limit]

    def last_orders(self, name: str, limit: int, before_ns: int) -> Tape:
        """The newest `limit` orders made before `before_ns`, oldest first."""
        end = self.order_at(name, before_ns)
        return self.orders_from(name, max(end - limit, 0), limit, before_ns)

    def last_trades(self, name: str, limit: int, before_ns: int) -> Tape:
        """The newest `limit` trades made before `before_ns`, oldest first."""
        trades = self.last_orders(name, limit, before_ns).split()
        return trades[max(len(trades) - limit, 0) :]

    def order_at(self, name: str, at_ns: int) -> int:
        """The id that the first order at or after `at_ns` has or would have."""
        listing = self._listings[name]
        _, at_ns = self._within(name, 0, at_ns)
        block = at_ns // MINUTE_NS // BLOCK_MINUTES
        minute = block * BLOCK_MINUTES
        before = int(self._day(listing, minute // DAY_MINUTES).before[minute % DAY_MINUTES])
        return before + int(np.searchsorted(self._block(listing, block).ns, at_ns))

    def order_of_trade(self, name: str, trade_id: int) -> int:
        """The order whose trades include `trade_id` (or, for a reserved id, the order before it)."""
        listing = self._listings[name]
        low, high = 0, trade_id + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if int(listing.fills_before(np.int64(middle))) <= trade_id else (low, middle)  # type: ignore[arg-type]
        return low

    def reserved(self, name: str, start_ns: int, end_ns: int) -> list[tuple[int, int]]:
        """(trade id, ns) of the ids that no market trade has, each at the time of the order before it."""
        bits = self._listings[name].reserve_bits
        if not bits:
            return []
        tape = self.orders(name, start_ns, end_ns)
        rows = tape[_before_reserved(tape.id, bits)]
        return [(row.last_id + 1, row.ns) for row in rows]

    def liquidations(self, name: str, start_ns: int, end_ns: int) -> Tape:
        """Orders that closed a position by force; `sell` closed a long. They are among `orders`."""
        tape = self.orders(name, start_ns, end_ns)
        return tape[tape.liquidation]

    def coins_e8(self, name: str, tape: Tape) -> list[int]:
        """Base coins x 10**8 of each row of inverse contracts, rounded half to even one by one; zeros for others."""
        instrument = self._listings[name].instrument
        return coins_e8(instrument, tape.ticks, tape.lots).tolist() if instrument.inverse else [0] * len(tape)

    # Candles

    def candles(self, name: str, interval_s: int, start_ns: int, end_ns: int) -> list[Bar]:
        """Candles of the trades in [open of the interval that holds start_ns, end_ns); an interval without trades has none.

        The last one is of the trades before `end_ns` only. Weeks open on Monday.
        """
        bars = self._bars(name, interval_s, start_ns, end_ns)
        return list(map(Bar._make, zip(*(bars[field].tolist() for field in Bar._fields), strict=True)))

    def window(self, name: str, start_ns: int, end_ns: int) -> Bar | None:
        """All trades of the stretch as one candle; None without a trade."""
        first, last = -(-start_ns // MINUTE_NS), end_ns // MINUTE_NS
        if first >= last:
            tape = self.orders(name, start_ns, end_ns)
            parts = [_fold(self._listings[name], tape, _one_group(tape), np.array([start_ns])[: len(tape)])]
        else:
            head, tail = self.orders(name, start_ns, first * MINUTE_NS), self.orders(name, last * MINUTE_NS, end_ns)
            parts = [
                self._fold_minutes(name, head),
                self._bars(name, 60, first * MINUTE_NS, last * MINUTE_NS),
                self._fold_minutes(name, tail),
            ]
        bars = _glued(parts)
        if not len(bars["open"]):
            return None
        one = _refold(bars, np.zeros(1, np.int64), np.array([start_ns]), wide=True)
        return Bar._make(one[field].tolist()[0] for field in Bar._fields)

    def warm(self, name: str, interval_s: int, start_ns: int, end_ns: int) -> Iterator[None]:
        """Make what `candles` of the stretch needs, a day at each step, so that a long question need not be one long wait."""
        start_ns, end_ns = self._within(name, start_ns, end_ns)
        for day in range(start_ns // DAY_NS, (end_ns - 1) // DAY_NS + 1):
            whole = day * DAY_NS >= start_ns and (day + 1) * DAY_NS <= end_ns
            self._bars_of_day(self._listings[name], day, hours=whole and interval_s % HOUR_S == 0)
            yield

    # Derivatives and quotes

    def open_interest(self, name: str, at_ns: int) -> int:
        """Lots open, one side counted."""
        listing = self._listings[name]
        minute, part = _minute(at_ns // NS * NS)
        marks = self._day(listing, minute // DAY_MINUTES).interest
        here = float(marks[minute % DAY_MINUTES])
        return int(here + (float(marks[minute % DAY_MINUTES + 1]) - here) * part)

    def funding(self, name: str, start_ns: int, end_ns: int) -> list[Settlement]:
        """What was settled in the stretch (by the hour, not by its stamp), oldest first."""
        start_ns, end_ns = self._within(name, start_ns, end_ns)
        found: list[Settlement] = []
        if not self._listings[name].funding_s:
            return found
        at = self.running_funding(name, start_ns - 1) if start_ns else self.running_funding(name, start_ns)
        while at.funding_ns < end_ns:
            found.append(self._settled(name, at.funding_ns, at.interval_s))
            at = self.running_funding(name, at.funding_ns)
        return found

    def running_funding(self, name: str, at_ns: int) -> Settlement:
        """The rate of the running period as the venue sees it now: it moves from the last settled one to the next."""
        interval_s = self.funding_interval_s(name, at_ns)
        interval_ns = interval_s * NS
        open_ns = at_ns - at_ns % interval_ns
        last = self._settled(name, open_ns, self.funding_interval_s(name, open_ns - 1))
        due = self._settled(name, open_ns + interval_ns, interval_s)
        part_s = (at_ns - open_ns) // NS
        return due._replace(rate_e8=last.rate_e8 + (due.rate_e8 - last.rate_e8) * part_s // interval_s)

    def funding_interval_s(self, name: str, at_ns: int) -> int:
        """Length of the funding period that holds `at_ns`."""
        lengths = self._listings[name].funding_s
        return lengths[at_ns // DAY_NS // FUNDING_TURN_DAYS % len(lengths)]

    def mark(self, name: str, at_ns: int) -> Decimal:
        """Mark price, eight digits."""
        listing = self._listings[name]
        return self._priced(
            listing, (self._smooth(listing, at_ns, "price") + self._smooth(listing, at_ns, "fair")) * 0.5
        )

    def index(self, name: str, at_ns: int) -> Decimal:
        """Index price (the coin's, without this instrument's basis), eight digits."""
        listing = self._listings[name]
        return self._priced(listing, self._smooth(listing, at_ns, "fair"))

    def drift(self, coin: str, at_ns: int, wildness: float) -> float:
        """By what the coin's price has drifted then, without the noise of single hours: cheap, however far apart."""
        minute, _ = _minute(at_ns)
        market, own = (float(waves(self._stream("coarse", of), minute, 1, _COARSE)[0]) for of in ("*", coin))
        return float(grow(np.array(market + own * wildness)))

    def quote(self, name: str, at_ns: int) -> Quoted:
        """Best bid and ask."""
        bid, ask = self._touch(self._listings[name], at_ns)
        return Quoted(bid, self._resting(name, bid, at_ns), ask, self._resting(name, ask, at_ns))

    def book(self, name: str, at_ns: int, levels: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """(bids, asks) as (ticks, lots), best first, a level at each tick; its first levels are `quote`."""
        bid, ask = self._touch(self._listings[name], at_ns)
        bids, asks = np.arange(bid, max(bid - levels, 0), -1), np.arange(ask, ask + levels)
        lots = self._resting_many(name, np.concatenate((bids, asks)), at_ns).tolist()
        return (
            list(zip(bids.tolist(), lots[: len(bids)], strict=True)),
            list(zip(asks.tolist(), lots[len(bids) :], strict=True)),
        )

    # How it is made

    def _stream(self, *names: str) -> int:
        found = self._streams.get(names)
        if found is None:
            found = self._streams[names] = key(self.seed, *names)
        return found

    def _within(self, name: str, start_ns: int, end_ns: int) -> tuple[int, int]:
        first_ns, last_ns = self.life(name)
        start_ns = min(max(start_ns, first_ns), last_ns)
        return start_ns, max(min(end_ns, last_ns), start_ns)

    def _factor(self, of: str, day: int) -> _Factor:
        return self._factors.get((of, day), lambda: self._make_factor(of, day))

    def _make_factor(self, of: str, day: int) -> _Factor:
        first, count = day * DAY_MINUTES - _LOOK_BACK, DAY_MINUTES + 1 + _LOOK_BACK
        regime = grow(waves(self._stream("regime", of), first, count, _REGIME))
        fine = waves(self._stream("fine", of), first, count, _FINE)
        return _Factor(waves(self._stream("coarse", of), first, count, _COARSE) + fine * regime, regime)

    def _day(self, listing: Listing, day: int) -> _Day:
        return self._days.get((listing.name, day), lambda: self._make_day(listing, day))

    def _make_day(self, listing: Listing, day: int) -> _Day:
        name, instrument = listing.name, listing.instrument
        market, coin = self._factor("*", day), self._factor(instrument.coin, day)
        first, count = day * DAY_MINUTES, DAY_MINUTES + 1
        log_fair = market.level + coin.level * listing.wildness
        fair = grow(log_fair[_LOOK_BACK:]) * (listing.price / float(instrument.tick_size))
        price = fair * (waves(self._stream("basis", name), first, count, _BASIS) + 1.0)
        move = log_fair[_LOOK_BACK:] - log_fair[:-_LOOK_BACK]
        interest = grow(waves(self._stream("interest", name), first, count, _INTEREST)) * _lots(
            listing, listing.open_interest_usd, listing.price
        )
        before = self._order_counts(listing, day, market, np.abs(np.diff(log_fair[_LOOK_BACK:])))
        orders = np.diff(before)
        background = (mix(self._stream("forced", name), np.arange(first, first + DAY_MINUTES)) & 3) == 0
        excess = np.clip((np.abs(move[1:]) - _CASCADE) * (10.0 / _CASCADE), 0.0, _CASCADE_MOST).astype(np.int64)
        forced = np.minimum(excess + background, orders // 4) * bool(listing.funding_s or instrument.expires_ns)
        return _Day(price, fair, market.regime[_LOOK_BACK:], interest, before, forced, move[1:] < 0)

    def _order_counts(self, listing: Listing, day: int, market: _Factor, moves: Floats) -> Ints:
        name, first = listing.name, day * DAY_MINUTES
        lively = grow(
            waves(self._stream("activity"), first, DAY_MINUTES, _ACTIVITY)
            + waves(self._stream("activity", name), first, DAY_MINUTES, _OWN_ACTIVITY)
        )
        weights = ((lively * (market.regime[_LOOK_BACK:-1] + 0.3) + moves * 600.0) * 1_000.0).astype(np.int64) + 1
        sums = np.concatenate(([0], np.cumsum(weights)))
        counts = self._day_counts(listing)
        start, total = int(counts[day - FIRST_DAY]), int(counts[day - FIRST_DAY + 1] - counts[day - FIRST_DAY])
        return start + sums * total // int(sums[-1])

    def _day_counts(self, listing: Listing) -> Ints:
        """Orders before each day: fixed for a whole day, so that ids never need the past to be made."""
        found = self._counts.get(listing.name)
        if found is None:
            usual = int(listing.orders_per_s * self._activity * 86_400)
            words = mix(self._stream("orders", listing.name), np.arange(FIRST_DAY, LAST_DAY + 2))
            per_day = usual * (700 + (words % 600).astype(np.int64)) // 1_000
            found = self._counts[listing.name] = np.concatenate(([0], np.cumsum(per_day)))
        return found

    def _minute_of_order(self, listing: Listing, order_id: int) -> int:
        counts = self._day_counts(listing)
        day = min(max(int(np.searchsorted(counts, order_id, side="right")) - 1, 0), LAST_DAY - FIRST_DAY) + FIRST_DAY
        before = self._day(listing, day).before
        minute = int(np.searchsorted(before, order_id, side="right")) - 1
        return day * DAY_MINUTES + min(max(minute, 0), DAY_MINUTES - 1)

    def _block(self, listing: Listing, block: int) -> Tape:
        first = block * BLOCK_MINUTES
        return self._blocks.get((listing.name, block), lambda: self._make_orders(listing, first, first + BLOCK_MINUTES))

    def _make_orders(self, listing: Listing, first: int, last: int) -> Tape:
        """All orders of the minutes first .. last-1, which are of one day."""
        day = self._day(listing, first // DAY_MINUTES)
        low, high = first % DAY_MINUTES, last - first + first % DAY_MINUTES
        counts = np.diff(day.before[low : high + 1])
        minute = np.repeat(np.arange(low, high), counts)
        number = np.arange(int(day.before[low]), int(day.before[high]))
        nth, of = number - day.before[minute], counts[minute - low]
        words = mix(self._stream("order", listing.name), number)
        ms = ((nth + (words & np.uint64(1023)) * (1.0 / 1024.0)) * 60_000.0 / of).astype(np.int64)
        part = ms / 60_000.0
        here = day.price[minute]
        move = day.price[minute + 1] - here
        middle = here + move * part
        regime = day.regime[minute]
        wild = regime + (day.regime[minute + 1] - regime) * part
        middle = middle + middle * (self._flicker(listing, first, last, minute - low, ms) * wild * _FLICKER)
        liquidation = _spread_out(nth, of, day.liquidations[minute])
        push = np.clip(move / here * _PUSH, -0.25, 0.25)
        sell = ((words >> np.uint64(10)) & np.uint64(1023)) * (1.0 / 1024.0) < 0.5 - push
        sell = np.where(liquidation, day.falling[minute], sell)
        ticks = _ticks(middle, sell, ((words >> np.uint64(20)) & np.uint64(15)).astype(np.int64))
        ids = listing.fills_before(np.arange(int(day.before[low]), int(day.before[high]) + 1))
        first_id, last_id = ids[:-1], ids[1:] - 1
        if listing.reserve_bits:
            # A reserved id is the last one before the next order's, and belongs to no order.
            last_id = last_id - _before_reserved(number, listing.reserve_bits)
        tail = 0.05 / (((words >> np.uint64(32)) & np.uint64(0xFFFFF)) * (1.0 / 1_048_576.0) + 0.001)
        lots = _lots_many(listing, np.where(liquidation, tail * 4.0, tail) * listing.order_usd, ticks)
        lots = np.maximum(lots, last_id - first_id + 1)
        ns = (first // DAY_MINUTES * DAY_MINUTES + minute) * MINUTE_NS + ms * MS
        return Tape(number, ns, ticks, lots, sell, first_id, last_id, liquidation)

    def _flicker(self, listing: Listing, first: int, last: int, minute: Ints, ms: Ints) -> Floats:
        """How the price trembles inside a minute: straight lines between knots every few seconds."""
        per_minute = 60_000 // _FLICKER_MS
        knots = bell(mix(self._stream("flicker", listing.name), np.arange(first * per_minute, last * per_minute + 1)))
        inside = (ms / float(_FLICKER_MS)).astype(np.int64)  # whole numbers: never rounded up to the next
        cell = minute * per_minute + inside
        left = knots[cell]
        found: Floats = left + (knots[cell + 1] - left) * ((ms - inside * _FLICKER_MS) / float(_FLICKER_MS))
        return found

    def _bars(self, name: str, interval_s: int, start_ns: int, end_ns: int) -> Bars:
        listing, interval_ns = self._listings[name], interval_s * NS
        offset_ns = WEEK_OFFSET_S * NS if interval_s == WEEK_S else 0
        start_ns, end_ns = self._within(name, start_ns - (start_ns - offset_ns) % interval_ns, end_ns)
        last = end_ns // MINUTE_NS
        parts = [_empty()]
        if end_ns - start_ns <= SHORT_NS:
            last = start_ns // MINUTE_NS  # its orders are at hand: a whole day need not be made for it
        for day in range(start_ns // DAY_NS, -(-last * MINUTE_NS // DAY_NS)):
            whole = day * DAY_NS >= start_ns and (day + 1) * DAY_NS <= end_ns
            bars = self._bars_of_day(listing, day, hours=whole and interval_s % HOUR_S == 0)
            low, high = np.searchsorted(bars["open_ns"], (start_ns, last * MINUTE_NS))
            parts.append({field: column[int(low) : int(high)] for field, column in bars.items()})
        parts.append(self._fold_minutes(name, self.orders(name, max(last * MINUTE_NS, start_ns), end_ns)))
        bars = _glued(parts)
        opens = bars["open_ns"] - (bars["open_ns"] - offset_ns) % interval_ns
        starts = np.flatnonzero(np.diff(opens, prepend=-1))
        return _refold(bars, starts, opens[starts], wide=interval_s > DAY_NS // NS)

    def _bars_of_day(self, listing: Listing, day: int, *, hours: bool) -> Bars:
        if not hours:
            return self._minute_bars.get((listing.name, day), lambda: self._make_minute_bars(listing, day))

        def fold() -> Bars:
            bars = self._bars_of_day(listing, day, hours=False)
            opens = bars["open_ns"] - bars["open_ns"] % (HOUR_S * NS)
            starts = np.flatnonzero(np.diff(opens, prepend=-1))
            return _refold(bars, starts, opens[starts], wide=False)

        return self._hour_bars.get((listing.name, day), fold)

    def _make_minute_bars(self, listing: Listing, day: int) -> Bars:
        parts = []
        start_ns, end_ns = self.life(listing.name)
        before = self._day(listing, day).before
        minutes = max(DAY_MINUTES // (1 + int(before[-1] - before[0]) // CHUNK_ORDERS), 1)
        for first in range(day * DAY_MINUTES, (day + 1) * DAY_MINUTES, minutes):
            last = min(first + minutes, (day + 1) * DAY_MINUTES)
            tape = self._make_orders(listing, first, last)
            if first * MINUTE_NS < start_ns or last * MINUTE_NS > end_ns:
                tape = tape.between(start_ns, end_ns)
            parts.append(self._fold_minutes(listing.name, tape))
        return _glued(parts)

    def _fold_minutes(self, name: str, tape: Tape) -> Bars:
        opens = tape.ns - tape.ns % MINUTE_NS
        starts = np.flatnonzero(np.diff(opens, prepend=-1))
        return _fold(self._listings[name], tape, starts, opens[starts])

    def _settled(self, name: str, funding_ns: int, interval_s: int) -> Settlement:
        hour = funding_ns // (HOUR_S * NS)
        wave = int(waves(self._stream("funding", name), hour, 1, _RATE)[0])
        rate_e8 = (_FUNDING_BASE_E8 + wave) * interval_s // _FUNDING_LENGTH_S
        late_ms = mix_one(self._stream("stamp", name), hour) % 21
        return Settlement(rate_e8, funding_ns, interval_s, funding_ns + late_ms * MS)

    def _smooth(self, listing: Listing, at_ns: int, field: str) -> float:
        minute, part = _minute(at_ns)
        marks = getattr(self._day(listing, minute // DAY_MINUTES), field)
        here = float(marks[minute % DAY_MINUTES])
        return here + (float(marks[minute % DAY_MINUTES + 1]) - here) * part

    def _priced(self, listing: Listing, ticks: float) -> Decimal:
        return Decimal(int(ticks * float(listing.instrument.tick_size) * 1e8 + 0.5)).scaleb(-8)

    def _touch(self, listing: Listing, at_ns: int) -> tuple[int, int]:
        minute, _ = _minute(at_ns)
        middle = self._smooth(listing, at_ns, "price")
        wild = self._smooth(listing, at_ns, "regime")
        ms = at_ns // MS % 60_000
        stream, cell = self._stream("flicker", listing.name), minute * (60_000 // _FLICKER_MS) + ms // _FLICKER_MS
        left, right = bell_one(mix_one(stream, cell)), bell_one(mix_one(stream, cell + 1))
        flicker = left + (right - left) * ((ms % _FLICKER_MS) / float(_FLICKER_MS))
        middle = middle + middle * (flicker * wild * _FLICKER)
        bid = max(int(middle), 1)
        return bid, bid + 1 + int(middle * _SPREAD)

    def _resting(self, name: str, ticks: int, at_ns: int) -> int:
        """Lots that wait at a price; each level changes about every second, at a moment of its own."""
        listing = self._listings[name]
        stream = self._stream("resting", name)
        turn = (at_ns // MS + mix_one(stream, ticks) % 1_000) // 1_000
        part = share_one(mix_one(stream ^ turn, ticks))
        return max(int(_lots(listing, (part * 4.0 * part + 0.2) * listing.order_usd, listing.price)), 1)

    def _resting_many(self, name: str, ticks: Ints, at_ns: int) -> Ints:
        """The same lots as `_resting` gives for each of the prices."""
        listing = self._listings[name]
        stream = self._stream("resting", name)
        turns = (at_ns // MS + (mix(stream, ticks) % np.uint64(1_000)).astype(np.int64)) // 1_000
        part = share(mix(np.uint64(stream) ^ turns.astype(np.uint64), ticks))
        usd = (part * 4.0 * part + 0.2) * listing.order_usd
        return np.maximum((usd / _lot_usd(listing, listing.price)).astype(np.int64), 1)


def _minute(at_ns: int) -> tuple[int, float]:
    ms = at_ns // MS
    return ms // 60_000, ms % 60_000 / 60_000.0


def _lot_usd(listing: Listing, price: float) -> float:
    instrument = listing.instrument
    lot = float(instrument.lot_size * (instrument.contract_size or 1))
    return lot if instrument.inverse else lot * price


def _lots(listing: Listing, usd: float, price: float) -> float:
    return usd / _lot_usd(listing, price)


def _lots_many(listing: Listing, usd: Floats, ticks: Ints) -> Ints:
    instrument = listing.instrument
    lot = float(instrument.lot_size * (instrument.contract_size or 1))
    if instrument.inverse:
        return (usd / lot).astype(np.int64)
    return (usd / (ticks * (lot * float(instrument.tick_size)))).astype(np.int64)


def _before_reserved(order: Ints, bits: int) -> Flags:
    mask = (1 << bits) - 1
    found: Flags = (order & mask) == mask
    return found


def _spread_out(nth: Ints, of: Ints, chosen: Ints) -> Flags:
    """Of each minute's orders, `chosen` ones at equal distances."""
    found = np.zeros(len(nth), np.bool_)
    rows = np.flatnonzero(chosen)
    if len(rows):
        nth, of, chosen = nth[rows], of[rows], chosen[rows]
        found[rows] = (nth + 1) * chosen // of > nth * chosen // of
    return found


def _ticks(middle: Floats, sell: Flags, chance: Ints) -> Ints:
    """Where an order trades: at the touch, sometimes a tick or two beyond."""
    bid = np.maximum(middle.astype(np.int64), 1)
    ask = bid + 1 + (middle * _SPREAD).astype(np.int64)
    beyond = np.where(chance < 2, chance + 1, 0)
    return np.where(sell, np.maximum(bid - beyond, 1), ask + beyond)


_FIRST = ("open_ns", "open", "first_id", "first_ns")
_LAST = ("close", "last_id", "last_ns")
_SUMS = ("lots", "notional", "coins_e8", "buy_lots", "buy_notional", "buy_coins_e8", "trades")


def _empty() -> Bars:
    return {field: np.zeros(0, np.int64) for field in Bar._fields}


def _one_group(tape: Tape) -> Ints:
    return np.zeros(min(len(tape), 1), np.int64)


def _fold(listing: Listing, tape: Tape, starts: Ints, opens: Ints) -> Bars:
    """Orders to candles; group n begins at row starts[n]."""
    if not len(starts):
        return _empty()
    notional = tape.ticks * tape.lots
    bought = ~tape.sell
    coins = (
        coins_e8(listing.instrument, tape.ticks, tape.lots) if listing.instrument.inverse else np.zeros_like(notional)
    )
    ends = np.append(starts[1:], len(tape)) - 1
    sums = {
        "lots": tape.lots,
        "notional": notional,
        "coins_e8": coins,
        "buy_lots": tape.lots * bought,
        "buy_notional": notional * bought,
        "buy_coins_e8": coins * bought,
        "trades": tape.last_id - tape.first_id + 1,
    }
    return {
        "open_ns": opens,
        "open": tape.ticks[starts],
        "high": np.maximum.reduceat(tape.ticks, starts),
        "low": np.minimum.reduceat(tape.ticks, starts),
        "close": tape.ticks[ends],
        **{field: np.add.reduceat(column, starts) for field, column in sums.items()},
        "first_id": tape.first_id[starts],
        "last_id": tape.last_id[ends],
        "first_ns": tape.ns[starts],
        "last_ns": tape.ns[ends],
    }


def _refold(bars: Bars, starts: Ints, opens: Ints, *, wide: bool) -> Bars:
    """Candles to longer candles; `wide` sums Python integers, for sums over days may be more than 64 bits."""
    if not len(starts):
        return _empty()
    ends = np.append(starts[1:], len(bars["open"])) - 1
    folded: Bars = {field: bars[field][starts] for field in _FIRST}
    folded |= {field: bars[field][ends] for field in _LAST}
    folded |= {field: np.add.reduceat(bars[field].astype(object) if wide else bars[field], starts) for field in _SUMS}
    folded["open_ns"] = opens
    folded["high"] = np.maximum.reduceat(bars["high"], starts)
    folded["low"] = np.minimum.reduceat(bars["low"], starts)
    return folded


def _glued(parts: Sequence[Bars]) -> Bars:
    return {field: np.concatenate([part[field] for part in parts]) for field in Bar._fields}


__all__ = ["Bar", "Listing", "Quoted", "Row", "Settlement", "Speller", "Tape", "World"]
