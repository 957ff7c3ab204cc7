"""The world: the same for everyone, whole, and in agreement with itself."""

import hashlib
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openoutcry.events import open_of
from openoutcry.instrument import Instrument, Kind
from openoutcry.simulator.listings import standard
from openoutcry.simulator.noise import bell, bell_one, mix, mix_one, waves
from openoutcry.simulator.tape import Bar, Row, coins_e8
from openoutcry.simulator.world import FUNDING_TURN_DAYS, World

NS = 1_000_000_000
MINUTE_NS, HOUR_NS, DAY_NS = 60 * NS, 3_600 * NS, 86_400 * NS
NOW_NS = 1_795_179_620 * NS
LISTINGS = standard(NOW_NS)
BTC, COINM, LAYER = "binance_futures:BTCUSDT", "binance_delivery:BTCUSD_PERP", "binance_futures:LAYERUSDT"
SPOT, QUIET = "binance:AVAXUSDT", "hyperliquid:PURR/USDC"
NAMES = [BTC, COINM, LAYER, SPOT, QUIET]

# One world for all tests: what it answers must not depend on what it was asked before.
WORLD = World(7, LISTINGS)

moments = st.integers(0, 3 * 86_400_000).map(lambda ms: NOW_NS - ms * 1_000_000)
names = st.sampled_from(NAMES)


def digest(world: World) -> str:
    said = hashlib.sha256()
    for name in NAMES:
        for ago_ns in (0, DAY_NS, 9 * DAY_NS):
            at_ns = NOW_NS - ago_ns
            said.update(repr(list(world.trades(name, at_ns - 7 * MINUTE_NS, at_ns))).encode())
            said.update(repr(world.candles(name, 300, at_ns - HOUR_NS, at_ns)).encode())
            said.update(repr((world.quote(name, at_ns), world.mark(name, at_ns), world.index(name, at_ns))).encode())
            said.update(repr((world.open_interest(name, at_ns), world.funding(name, at_ns - DAY_NS, at_ns))).encode())
    return said.hexdigest()


def naive(rows: list[Row], interval_s: int) -> list[tuple[int, ...]]:
    """Open, high, low, close, lots, notional, bought lots, trades of each interval, one trade at a time."""
    bars: dict[int, list[int]] = {}
    for row in rows:
        bar = bars.setdefault(open_of(row.ns, interval_s), [row.ticks, row.ticks, row.ticks, row.ticks, 0, 0, 0, 0])
        bar[1], bar[2], bar[3] = max(bar[1], row.ticks), min(bar[2], row.ticks), row.ticks
        bar[4] += row.lots
        bar[5] += row.ticks * row.lots
        bar[6] += 0 if row.sell else row.lots
        bar[7] += 1
    return [(at_ns, *bar) for at_ns, bar in bars.items()]


def short(bar: Bar) -> tuple[int, ...]:
    return (bar.open_ns, bar.open, bar.high, bar.low, bar.close, bar.lots, bar.notional, bar.buy_lots, bar.trades)


def test_the_same_seed_is_the_same_world_on_every_machine() -> None:
    assert digest(World(7, LISTINGS)) == GOLDEN
    assert digest(WORLD) == GOLDEN


def test_another_seed_is_another_world() -> None:
    assert digest(World(8, LISTINGS)) != GOLDEN


def test_the_moment_of_the_start_changes_only_what_is_listed() -> None:
    later = World(7, standard(NOW_NS + DAY_NS))
    assert list(later.trades(BTC, NOW_NS - MINUTE_NS, NOW_NS)) == list(WORLD.trades(BTC, NOW_NS - MINUTE_NS, NOW_NS))
    assert later.life(BTC)[0] == WORLD.life(BTC)[0] + DAY_NS


@settings(max_examples=60, deadline=None)
@given(name=names, edges=st.lists(moments, min_size=3, max_size=3).map(sorted))
def test_a_stretch_is_the_sum_of_its_parts(name: str, edges: list[int]) -> None:
    edges = [edges[0], *(min(edge, edges[0] + 2 * HOUR_NS) for edge in edges[1:])]
    start_ns, middle_ns, end_ns = edges
    parts = [*WORLD.trades(name, start_ns, middle_ns), *WORLD.trades(name, middle_ns, end_ns)]
    assert parts == list(WORLD.trades(name, start_ns, end_ns))
    assert all(start_ns <= row.ns < end_ns for row in parts)


@settings(max_examples=60, deadline=None)
@given(
    name=names,
    interval_s=st.sampled_from([60, 180, 300, 3_600]),
    start_ns=moments,
    length_ms=st.integers(0, 4 * 3_600_000),
)
def test_candles_are_the_fold_of_the_trades(name: str, interval_s: int, start_ns: int, length_ms: int) -> None:
    end_ns = min(start_ns + length_ms * 1_000_000, NOW_NS)
    rows = list(WORLD.trades(name, open_of(start_ns, interval_s), end_ns))
    assert [short(bar) for bar in WORLD.candles(name, interval_s, start_ns, end_ns)] == naive(rows, interval_s)


@pytest.mark.parametrize("interval_s", [86_400, 259_200, 604_800])
def test_long_candles_are_the_fold_of_the_trades_too(interval_s: int) -> None:
    start_ns = open_of(NOW_NS - 9 * DAY_NS, interval_s)
    rows = list(WORLD.trades(QUIET, start_ns, NOW_NS))
    assert [short(bar) for bar in WORLD.candles(QUIET, interval_s, start_ns, NOW_NS)] == naive(rows, interval_s)


def test_coins_of_inverse_contracts_are_rounded_trade_by_trade() -> None:
    start_ns = open_of(NOW_NS, 3_600) - HOUR_NS
    rows = WORLD.trades(COINM, start_ns, start_ns + HOUR_NS)
    (bar,) = WORLD.candles(COINM, 3_600, start_ns, start_ns + HOUR_NS)
    each = [round_half_even(row.lots * 100 * 10**8 * 10, row.ticks) for row in rows]
    assert each == WORLD.coins_e8(COINM, rows)
    assert bar.coins_e8 == sum(each)
    assert bar.buy_coins_e8 == sum(coins for coins, row in zip(each, rows, strict=True) if not row.sell)


def test_half_a_unit_of_coin_is_rounded_to_the_even_one() -> None:
    contract = Instrument(
        venue="x", symbol="A", kind=Kind.PERPETUAL, coin="A", quote="USD", settle="A",
        tick_size=Decimal(1), lot_size=Decimal(1), contract_size=Decimal(1), inverse=True,
    )  # fmt: skip
    # 10**8 / 512 = 195312.5 and 3 * 10**8 / 512 = 585937.5
    assert coins_e8(contract, np.array([512, 512]), np.array([1, 3])).tolist() == [195_312, 585_938]


def round_half_even(up: int, down: int) -> int:
    whole, left = divmod(up, down)
    return whole + (left * 2 > down or (left * 2 == down and whole % 2 == 1))


@settings(max_examples=40, deadline=None)
@given(start_ns=moments, end_ns=moments)
def test_one_candle_of_any_window_holds_all_its_trades(start_ns: int, end_ns: int) -> None:
    start_ns, end_ns = min(start_ns, end_ns), min(max(start_ns, end_ns), min(start_ns, end_ns) + 3 * HOUR_NS)
    rows = list(WORLD.trades(LAYER, start_ns, end_ns))
    bar = WORLD.window(LAYER, start_ns, end_ns)
    if not rows:
        assert bar is None
        return
    assert bar is not None
    assert (bar.open, bar.close) == (rows[0].ticks, rows[-1].ticks)
    assert (bar.high, bar.low) == (max(r.ticks for r in rows), min(r.ticks for r in rows))
    assert (bar.lots, bar.trades) == (sum(r.lots for r in rows), len(rows))


@pytest.mark.parametrize("name", NAMES)
def test_trade_ids_have_no_holes_but_the_reserved_ones(name: str) -> None:
    start_ns = NOW_NS - 6 * HOUR_NS
    ids = [row.first_id for row in WORLD.trades(name, start_ns, NOW_NS)]
    reserved = [number for number, _ in WORLD.reserved(name, start_ns, NOW_NS)]
    whole = sorted(ids + reserved)
    assert all(after == before + 1 for before, after in pairwise(whole))
    assert len(set(whole)) == len(whole)
    assert bool(reserved) == bool(WORLD.listing(name).reserve_bits)


@pytest.mark.parametrize("name", NAMES)
def test_an_order_is_filled_whole_by_its_trades(name: str) -> None:
    orders = WORLD.orders(name, NOW_NS - HOUR_NS, NOW_NS)
    trades = list(orders.split())
    assert all(row.lots > 0 and row.ticks > 0 for row in trades)
    for order in orders:
        fills = trades[: order.last_id - order.first_id + 1]
        del trades[: len(fills)]
        assert sum(fill.lots for fill in fills) == order.lots
        assert {(fill.ns, fill.ticks, fill.sell, fill.id) for fill in fills} == {
            (order.ns, order.ticks, order.sell, order.id)
        }
    assert not trades


@settings(max_examples=40, deadline=None)
@given(name=names, before_ns=moments, limit=st.integers(1, 400))
def test_the_newest_and_those_from_an_id_are_the_same_rows(name: str, before_ns: int, limit: int) -> None:
    newest = list(WORLD.last_trades(name, limit, before_ns))
    assert len(newest) == limit
    assert newest == list(WORLD.trades_from(name, newest[0].first_id, limit, before_ns))
    assert newest == list(WORLD.trades(name, newest[0].ns, before_ns))[-limit:]
    orders = list(WORLD.last_orders(name, limit, before_ns))
    assert orders == list(WORLD.orders_from(name, orders[0].id, limit, before_ns))
    assert WORLD.order_at(name, before_ns) == orders[-1].id + 1


@pytest.mark.parametrize("name", NAMES)
def test_prices_go_on_where_they_were_at_every_minute_and_day(name: str) -> None:
    midnight_ns = NOW_NS - NOW_NS % DAY_NS
    for start_ns in (midnight_ns - 10 * MINUTE_NS, NOW_NS - 20 * MINUTE_NS):
        ticks = [row.ticks for row in WORLD.orders(name, start_ns, start_ns + 20 * MINUTE_NS)]
        assert all(abs(after - before) <= 0.01 * before + 4 for before, after in pairwise(ticks))


def test_orders_trade_at_the_quote_or_a_tick_or_two_beyond() -> None:
    for row in WORLD.orders(BTC, NOW_NS - 5 * MINUTE_NS, NOW_NS):
        quote = WORLD.quote(BTC, row.ns)
        beyond = quote.bid_ticks - row.ticks if row.sell else row.ticks - quote.ask_ticks
        assert 0 <= beyond <= 2
        assert quote.bid_ticks < quote.ask_ticks


def test_a_coin_has_about_one_price_on_every_venue_and_coins_move_together() -> None:
    minutes = range(NOW_NS - 12 * HOUR_NS, NOW_NS, MINUTE_NS)

    def moves(name: str) -> np.ndarray:
        return np.diff(np.array([float(WORLD.index(name, at_ns)) for at_ns in minutes])) / float(
            WORLD.index(name, NOW_NS)
        )

    for name in (COINM, "binance:BTCUSDT", "okx:BTC-USDT-SWAP", "bybit:BTCUSDT", "hyperliquid:BTC"):
        assert float(WORLD.mark(name, NOW_NS)) == pytest.approx(float(WORLD.mark(BTC, NOW_NS)), rel=0.01)
    assert np.corrcoef(moves(BTC), moves("binance_futures:ETHUSDT"))[0, 1] > 0.3


def test_big_moves_bring_cascades_of_liquidations_on_the_losing_side() -> None:
    counts = []
    for minute_ns in range(NOW_NS - 3 * DAY_NS, NOW_NS, MINUTE_NS):
        open_ns = minute_ns - minute_ns % MINUTE_NS
        counts.append((len(WORLD.liquidations("binance_futures:SOLUSDT", open_ns, open_ns + MINUTE_NS)), open_ns))
    most, at_ns = max(counts)
    assert most >= 10
    before, after = (WORLD.index("binance_futures:SOLUSDT", at_ns + n * MINUTE_NS) for n in (-4, 1))
    assert all(
        row.sell == (after < before) for row in WORLD.liquidations("binance_futures:SOLUSDT", at_ns, at_ns + MINUTE_NS)
    )
    assert not len(WORLD.liquidations(SPOT, NOW_NS - HOUR_NS, NOW_NS))


def test_funding_is_paid_at_each_ones_own_interval_which_may_change() -> None:
    hours = {s.interval_s for s in WORLD.funding(BTC, NOW_NS - 10 * DAY_NS, NOW_NS)}
    assert hours == {28_800}
    settled = WORLD.funding(LAYER, NOW_NS - 2 * FUNDING_TURN_DAYS * DAY_NS, NOW_NS)
    assert {s.interval_s for s in settled} == {28_800, 14_400}
    assert all(after.funding_ns - before.funding_ns == after.interval_s * NS for before, after in pairwise(settled))
    assert all(0 <= s.stamp_ns - s.funding_ns <= 20_000_000 for s in settled)
    assert WORLD.funding(SPOT, NOW_NS - DAY_NS, NOW_NS) == []


def test_the_running_rate_becomes_the_settled_one() -> None:
    running = WORLD.running_funding(BTC, NOW_NS)
    (settled,) = WORLD.funding(BTC, running.funding_ns, running.funding_ns + 1)
    assert settled.funding_ns == running.funding_ns > NOW_NS
    assert abs(WORLD.running_funding(BTC, running.funding_ns - NS).rate_e8 - settled.rate_e8) <= 1
    before = WORLD.funding(BTC, NOW_NS - DAY_NS, NOW_NS)[-1]
    assert WORLD.running_funding(BTC, before.funding_ns).rate_e8 == before.rate_e8


def test_there_is_no_past_before_the_listing_and_nothing_after_the_expiry() -> None:
    young, future = "binance_futures:HYPEUSDT", next(a for a in LISTINGS if a.instrument.expires_ns)
    first_ns, _ = WORLD.life(young)
    assert NOW_NS - DAY_NS < first_ns < NOW_NS
    assert not len(WORLD.trades(young, first_ns - DAY_NS, first_ns))
    assert WORLD.candles(young, 86_400, 0, NOW_NS)[0].first_ns >= first_ns
    assert WORLD.candles(young, 60, 0, NOW_NS)[0].open_ns == first_ns
    assert future.instrument.expires_ns is not None
    end_ns = future.instrument.expires_ns
    assert len(WORLD.trades(future.name, end_ns - HOUR_NS, end_ns + HOUR_NS)) == len(
        WORLD.trades(future.name, end_ns - HOUR_NS, end_ns)
    )
    assert not len(WORLD.trades(future.name, end_ns, end_ns + HOUR_NS))


def test_open_interest_moves_but_stays_in_bounds() -> None:
    sizes = [WORLD.open_interest(BTC, NOW_NS - n * 300 * NS) for n in range(500)]
    assert len(set(sizes)) > 400
    assert max(sizes) < 2 * min(sizes)


def test_the_book_begins_with_the_quote() -> None:
    bids, asks = WORLD.book(BTC, NOW_NS, 20)
    quote = WORLD.quote(BTC, NOW_NS)
    assert (bids[0], asks[0]) == ((quote.bid_ticks, quote.bid_lots), (quote.ask_ticks, quote.ask_lots))
    assert [ticks for ticks, _ in bids] == list(range(quote.bid_ticks, quote.bid_ticks - 20, -1))
    assert [ticks for ticks, _ in asks] == list(range(quote.ask_ticks, quote.ask_ticks + 20))


def test_no_instrument_of_any_venue_goes_beyond_what_64_bits_hold() -> None:
    for listing in LISTINGS:
        start_ns = NOW_NS - NOW_NS % DAY_NS - HOUR_NS
        rows = list(WORLD.trades(listing.name, start_ns, start_ns + HOUR_NS))
        assert [short(bar) for bar in WORLD.candles(listing.name, 3_600, start_ns, start_ns + HOUR_NS)] == naive(
            rows, 3_600
        )
        assert sum(row.ticks * row.lots for row in rows) * 24 * 30 < 2**63


@given(stream=st.integers(0, 2**64 - 1), index=st.integers(0, 2**40))
def test_single_words_are_those_of_the_columns(stream: int, index: int) -> None:
    words = mix(stream, np.array([index]))
    assert int(words[0]) == mix_one(stream, index)
    assert float(bell(words)[0]) == bell_one(mix_one(stream, index))


@given(first=st.integers(0, 10**8), count=st.integers(1, 300), cut=st.integers(0, 299))
def test_waves_can_be_asked_for_piece_by_piece(first: int, count: int, cut: int) -> None:
    octaves = ((1, 1.0), (7, 0.5), (64, 2.0))
    cut = min(cut, count - 1)
    assert waves(5, first, count, octaves)[cut] == waves(5, first + cut, 1, octaves)[0]


GOLDEN = "e41a16d68b42f93dc24069276ca0efa04dbd66ec56b77370addbff05385ec6c6"
