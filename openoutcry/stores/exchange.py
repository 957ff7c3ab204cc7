"""The exchange in the ledger's database, SQLite or PostgreSQL: commands, orders, trades, and the balances that they make.

A batch is one transaction. Balances are written as they are now: this is their only writer, of the assets that are traded here.
"""

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Select,
    delete,
    event,
    insert,
    make_url,
    select,
    text,
    union_all,
)

from openoutcry.errors import Unavailable
from openoutcry.ledger.postings import ISSUANCE
from openoutcry.orders import Change, Command, Move, Status, Trade
from openoutcry.stores.engine import opened, refusing
from openoutcry.stores.exchange_rows import Rows
from openoutcry.stores.exchange_tables import active as is_active
from openoutcry.stores.exchange_tables import listings, log, orders, snapshots, trades
from openoutcry.stores.ledger import LEDGER, WHAT, balances, postings, transfers
from openoutcry.trading.engine import FEES, PLACES
from openoutcry.trading.listings import Listings, Pair
from openoutcry.trading.store import Held, Kept, Numbered, Snapshot, Written

BUSY_S = 30.0
# SQLite's pages in memory, and those (4 kB each) that its log holds before they are copied into the file.
CACHE_KB = 64 * 1_024
LOG_PAGES = 8_192
# Rows of the log in one question: each holds up to a batch of commands.
LOG_ROWS_MAX = 100
ASKED_MAX = 1_000

_LOGGED = msgspec.msgpack.Decoder(list[tuple[int, int, Command]])
_KEPT = msgspec.msgpack.Decoder(Kept)
_ORDER = (*Change.__struct_fields__, "gives")
_BECAME = ("place", "left", "reserve", "status", "changed_ns", "traded_ns")
_CHANGE = tuple(orders.c[name] for name in Change.__struct_fields__)
_TRADE = ("place", *Trade.__struct_fields__[1:])

_NEW_ORDERS = Rows(orders, _ORDER)
_OLD_ORDERS = Rows(orders, _BECAME, of="place")
_TRADES = Rows(trades, _TRADE)
_BALANCES = Rows(balances, ("owner", "asset", "total", "held"), key=("owner", "asset"))
_TRANSFERS = Rows(transfers, ("id", "reason", "at_ns"))
_POSTINGS = Rows(postings, ("transfer", "owner", "asset", "amount", "total"))

_MOVE = "move/"
# The reason of a transfer that is a move.
MOVED = "moved"

# Transfer, owner, asset, amount.
_Moved = tuple[str, str, str, int]


class SqlExchange:
    """Raises Unavailable where the database cannot be opened."""

    def __init__(self, url: URL | str, *, busy_s: float = BUSY_S) -> None:
        # One of each at a time, and `close` waits for both: a thread may still be at work when the server stops. Who reads
        # does not wait for who writes.
        self._reading, self._writing = threading.Lock(), threading.Lock()
        self._engine = opened(make_url(url), busy_s, LEDGER, WHAT)
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _roomy)
            self._engine.dispose()  # what is open already was not told
        self._writer = self._engine.execution_options(writing=True)
        self._pairs: Mapping[str, Pair] = {}

    # -- the one writer

    def load(self) -> Kept:
        """The exchange as it was written last. Raises Unavailable."""
        with self._writing, refusing(WHAT), self._writer.begin() as connection:
            if connection.dialect.name == "postgresql":
                # A commit whose answer was lost may still be under way: it ends before this begins. SQLite's lock does that.
                connection.execute(text(f"SET LOCAL lock_timeout = {round(BUSY_S * 1_000)}"))
                connection.execute(text(f"LOCK TABLE {log.name} IN EXCLUSIVE MODE"))
            last = connection.execute(select(log.c.last, log.c.at_ns).order_by(log.c.first.desc()).limit(1)).first()
            rules = connection.scalar(select(listings.c.body).order_by(listings.c.number.desc()).limit(1))
            listed = Listings({}, {}) if rules is None else Listings.read(bytes(rules))
            self._pairs = listed.pairs
            resting = connection.execute(select(*_CHANGE).where(is_active)).all()
            had = connection.execute(select(balances).where(balances.c.asset.in_(sorted(listed.assets)))).all()
        return Kept(
            number=0 if last is None else last.last,
            at_ns=0 if last is None else last.at_ns,
            listings=None if rules is None else bytes(rules),
            orders=[_change(row) for row in sorted(resting, key=lambda row: row.place)],
            held=[Held(row.owner, row.asset, row.total, row.held) for row in had],
        )

    def commit(self, written: Written) -> None:
        """All of it in one transaction. Raises Unavailable: then it was done or not, whole."""
        # What entered before this batch is there; what entered in it is not.
        since = written.commands[0].number * PLACES
        new = [(*_values(change), gives) for change, gives in written.changes if change.place >= since]
        old = [
            (change.place, change.left, change.reserve, change.status.value, change.changed_ns, change.traded_ns)
            for change, _ in written.changes
            if change.place < since
        ]
        with self._writing, refusing(WHAT), self._writer.begin() as connection:
            self._log(connection, written)
            _NEW_ORDERS.write(connection, new)
            if _OLD_ORDERS.write(connection, old) != len(old):
                raise Unavailable("store", f"{WHAT} lacks an order that rested")
            traded = [each for each in written.moved if isinstance(each, Trade)]
            _TRADES.write(connection, [(_place(trade), *_values(trade)[1:]) for trade in traded])
            _BALANCES.write(connection, written.held)
            self._post(connection, written)

    def moved(self, ids: Collection[str]) -> Mapping[str, Move]:
        """What was moved under those of the ids that were used already. Raises Unavailable."""
        found: dict[str, Move] = {}
        named = sorted(ids)
        for at in range(0, len(named), ASKED_MAX):
            asked = [_move_id(each) for each in named[at : at + ASKED_MAX]]
            received = select(postings).where(postings.c.transfer.in_(asked), postings.c.owner != ISSUANCE)
            for row in self._rows(received):
                id_ = row.transfer.removeprefix(_MOVE)
                found[id_] = Move(id_, row.owner, row.asset, row.amount)
        return found

    # -- the log

    def log(self, after: int) -> Iterator[Numbered]:
        """Every command whose number is greater, in order. Raises Unavailable."""
        while rows := self._rows(
            select(log.c.last, log.c.body).where(log.c.last > after).order_by(log.c.first).limit(LOG_ROWS_MAX)
        ):
            for row in rows:
                for number, at_ns, command in _LOGGED.decode(row.body):
                    if number > after:
                        yield Numbered(number, at_ns, command)
            after = rows[-1].last

    def snapshot(self) -> Snapshot | None:
        """The newest. Raises Unavailable."""
        rows = self._rows(select(snapshots).order_by(snapshots.c.number.desc()).limit(1))
        return Snapshot(kept=_KEPT.decode(rows[0].body), digest=rows[0].digest) if rows else None

    def keep(self, snapshot: Snapshot) -> None:
        """The newest; it replaces those before it. Raises Unavailable."""
        number = snapshot.kept.number
        row = {"number": number, "digest": snapshot.digest, "body": msgspec.msgpack.encode(snapshot.kept)}
        with self._writing, refusing(WHAT), self._writer.begin() as connection:
            connection.execute(delete(snapshots).where(snapshots.c.number <= number))
            connection.execute(insert(snapshots), [row])

    # -- what was

    def orders(self, wallet: str, pair: str | None, *, active: bool, offset: int, limit: int) -> Sequence[Change]:
        """Of the wallet, newest first. Raises Unavailable."""
        asked = select(*_CHANGE).where(orders.c.wallet == wallet, is_active if active else ~is_active)
        if pair is not None:
            asked = asked.where(orders.c.pair == pair)
        rows = self._rows(asked.order_by(orders.c.place.desc()).offset(offset).limit(limit))
        return [_change(row) for row in rows]

    def order(self, wallet: str, id_: str) -> Change | None:
        """The wallet's order with that id. Raises Unavailable."""
        rows = self._rows(select(*_CHANGE).where(orders.c.id == id_, orders.c.wallet == wallet))
        return _change(rows[0]) if rows else None

    def trades(
        self,
        wallet: str,
        *,
        pair: str | None = None,
        order: str | None = None,
        buys: bool | None = None,
        after_ns: int | None = None,
        until_ns: int | None = None,
        offset: int = 0,
        limit: int = 100,
    ) -> Sequence[Trade]:
        """In which the wallet took part, newest first: after the one time (exclusive), until the other (inclusive)."""
        of = trades.c
        wanted: list[ColumnElement[bool]] = []
        if pair is not None:
            wanted.append(of.pair == pair)
        if after_ns is not None:
            wanted.append(of.at_ns > after_ns)
        if until_ns is not None:
            wanted.append(of.at_ns <= until_ns)
        # It takes part on one side of each: two walks along an index instead of one over all that it ever did.
        roles = []
        for wallets, mine, took in ((of.maker_wallet, of.maker, False), (of.taker_wallet, of.taker, True)):
            here = [wallets == wallet, *wanted]
            if order is not None:
                here.append(mine == order)
            if buys is not None:
                here.append(of.taker_buys == (buys is took))
            roles.append(select(trades).where(*here).order_by(of.place.desc()).limit(offset + limit).subquery())
        both = union_all(*(select(role) for role in roles)).subquery()
        asked = select(both).order_by(both.c.place.desc()).offset(offset).limit(limit)
        return [_trade(row) for row in self._rows(asked)]

    def public_trades(self, pair: str, offset: int, limit: int) -> Sequence[Trade]:
        """Newest first. Raises Unavailable."""
        asked = select(trades).where(trades.c.pair == pair).order_by(trades.c.at_ns.desc(), trades.c.place.desc())
        return [_trade(row) for row in self._rows(asked.offset(offset).limit(limit))]

    def moves(self, wallet: str, assets: Collection[str], offset: int, limit: int) -> Sequence[tuple[int, Move]]:
        """What was brought into the wallet or taken out of it, of those assets, and when (ns); newest first. Raises Unavailable."""
        # By the other side of each: a wallet may have traded millions of times, and little is ever moved.
        mine, others = postings.alias(), postings.alias()
        both = (mine.c.transfer == others.c.transfer) & (mine.c.asset == others.c.asset) & (mine.c.owner == wallet)
        found = (
            select(transfers.c.at_ns, mine.c.transfer, mine.c.asset, mine.c.amount)
            .select_from(others.join(mine, both).join(transfers, transfers.c.id == mine.c.transfer))
            .where(others.c.owner == ISSUANCE, others.c.asset.in_(sorted(assets)), transfers.c.reason == MOVED)
            .order_by(mine.c.id.desc())
        )
        return [
            (row.at_ns, Move(row.transfer.removeprefix(_MOVE), wallet, row.asset, row.amount))
            for row in self._rows(found.offset(offset).limit(limit))
        ]

    def tape(self, pair: str, start_ns: int, end_ns: int, *, after: int, limit: int) -> Sequence[Trade]:
        """The first trades of [start_ns, end_ns) whose place is greater, oldest first. Raises Unavailable."""
        of = trades.c
        asked = select(trades).where(of.pair == pair, of.at_ns >= start_ns, of.at_ns < end_ns, of.place > after)
        return [_trade(row) for row in self._rows(asked.order_by(of.at_ns, of.place).limit(limit))]

    def listed(self) -> Mapping[str, int]:
        """When each pair was listed first (ns). Raises Unavailable."""
        first: dict[str, int] = {}
        for row in self._rows(select(listings).order_by(listings.c.number)):
            new = Listings.read(bytes(row.body)).pairs.keys() - first.keys()
            if new:
                asked = select(log.c.at_ns).where(log.c.first <= row.number).order_by(log.c.first.desc()).limit(1)
                first |= dict.fromkeys(new, self._rows(asked)[0].at_ns)
        return first

    def close(self) -> None:
        """Close every connection; a second call does nothing."""
        with self._reading, self._writing:
            self._engine.dispose()

    # -- parts of a transaction

    def _log(self, connection: Connection, written: Written) -> None:
        commands = written.commands
        row = {"first": commands[0].number, "last": commands[-1].number, "at_ns": commands[-1].at_ns}
        connection.execute(insert(log), [row | {"body": msgspec.msgpack.encode(commands)}])
        for number, relist in written.relists:
            connection.execute(insert(listings), [{"number": number, "body": relist.listings}])
            self._pairs = Listings.read(relist.listings).pairs

    def _post(self, connection: Connection, written: Written) -> None:
        """A transfer for each trade and move, with the total of each owner after it."""
        made: list[tuple[str, str, int]] = []
        moved: list[_Moved] = []
        at_ns = written.commands[-1].at_ns
        for each in written.moved:
            if isinstance(each, Move):
                id_ = _move_id(each.id)
                made.append((id_, MOVED, at_ns))
                moved.append((id_, ISSUANCE, each.asset, -each.units))
                moved.append((id_, each.wallet, each.asset, each.units))
            else:
                id_ = f"trade/{each.id}"
                made.append((id_, "traded", at_ns))
                moved += _legs(id_, each, self._pairs[each.pair])
        # Backwards from what is now: before its last move, a wallet had what it has without it.
        totals = {(each.wallet, each.asset): each.total for each in written.held}
        rows: list[tuple[str, str, str, int, int]] = []
        for transfer, owner, asset, amount in reversed(moved):
            total = totals[owner, asset]
            totals[owner, asset] = total - amount
            rows.append((transfer, owner, asset, amount, total))
        _TRANSFERS.write(connection, made)
        _POSTINGS.write(connection, rows[::-1])

    def _rows(self, asked: Select[Any]) -> Sequence[Any]:
        with self._reading, refusing(WHAT), self._engine.begin() as connection:
            return connection.execute(asked).all()


def _roomy(connection: Any, _record: Any) -> None:
    """A batch touches pages all over the file: they stay in memory, and are copied into it less often."""
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA cache_size = -{CACHE_KB}")
    cursor.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
    cursor.close()


def _legs(transfer: str, trade: Trade, pair: Pair) -> Iterator[_Moved]:
    """What each receives and gives: of one owner and asset one posting."""
    maker, taker = (trade.maker_wallet, trade.maker_fee), (trade.taker_wallet, trade.taker_fee)
    (buyer, buyer_fee), (seller, seller_fee) = (taker, maker) if trade.taker_buys else (maker, taker)
    for asset, units, giver, receiver, fee in (
        (pair.quote, trade.quote, buyer, seller, seller_fee),
        (pair.base, trade.lots, seller, buyer, buyer_fee),
    ):
        yield transfer, giver, asset, -units
        if units > fee:
            yield transfer, receiver, asset, units - fee
        if fee:
            yield transfer, FEES, asset, fee


def _move_id(id_: str) -> str:
    return _MOVE + id_


def _values(told: Change | Trade) -> tuple[Any, ...]:
    return msgspec.structs.astuple(told)


def _change(row: Any) -> Change:
    return Change(
        row.id,
        row.place,
        row.wallet,
        row.pair,
        row.buys,
        row.market,
        row.ticks,
        row.lots,
        row.left,
        row.reserve,
        Status(row.status),
        row.made_ns,
        row.changed_ns,
        row.traded_ns,
    )


def _place(trade: Trade) -> int:
    number, _, n = trade.id.partition("-")
    return int(number) * PLACES + int(n)


def _trade(row: Any) -> Trade:
    number, n = divmod(row.place, PLACES)
    return Trade(f"{number}-{n}", *row[1:])
