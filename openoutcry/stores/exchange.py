"""The exchange in the ledger's database, SQLite or PostgreSQL: commands, orders, trades, and the balances that they make.

A batch is one transaction. Balances are written as they are now: this is their only writer, of the assets that are traded here.
"""

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import URL, Connection, Select, Table, delete, insert, literal_column, make_url, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from openoutcry.ledger.postings import ISSUANCE
from openoutcry.orders import Change, Command, Status, Trade
from openoutcry.stores.engine import opened, refusing
from openoutcry.stores.exchange_tables import active as is_active
from openoutcry.stores.exchange_tables import listings, log, orders, snapshots, trades
from openoutcry.stores.ledger import LEDGER, WHAT, balances, postings, transfers
from openoutcry.trading.engine import FEES, PLACES
from openoutcry.trading.listings import Listings, Pair
from openoutcry.trading.store import Held, Kept, Numbered, Snapshot, Written

BUSY_S = 30.0
# Rows of the log in one question: each holds up to a batch of commands.
LOG_ROWS_MAX = 100
ASKED_MAX = 1_000

_LOGGED = msgspec.msgpack.Decoder(list[tuple[int, int, Command]])
_KEPT = msgspec.msgpack.Decoder(Kept)
_CHANGED = ("left", "reserve", "status", "changed_ns", "traded_ns")
_CHANGE = tuple(name for name in Change.__struct_fields__)
_TRADE = tuple(name for name in Trade.__struct_fields__)

# Asset, owner, amount: what moves together, from one transfer.
_Moved = tuple[str, str, str, int]


class SqlExchange:
    """Raises Unavailable where the database cannot be opened."""

    def __init__(self, url: URL | str, *, busy_s: float = BUSY_S) -> None:
        # One of each at a time, and `close` waits for both: a thread may still be at work when the server stops. Who reads
        # does not wait for who writes.
        self._reading, self._writing = threading.Lock(), threading.Lock()
        self._engine = opened(make_url(url), busy_s, LEDGER, WHAT)
        self._writer = self._engine.execution_options(writing=True)
        self._pairs: Mapping[str, Pair] = {}

    # -- the one writer

    def load(self) -> Kept:
        """The exchange as it was written last. Raises Unavailable."""
        with self._writing, refusing(WHAT), self._writer.begin() as connection:
            last = connection.execute(select(log.c.last, log.c.at_ns).order_by(log.c.first.desc()).limit(1)).first()
            rules = connection.scalar(select(listings.c.body).order_by(listings.c.number.desc()).limit(1))
            if rules is not None:
                self._pairs = Listings.read(bytes(rules)).pairs
            assets = {asset for pair in self._pairs.values() for asset in (pair.base, pair.quote)}
            if rules is not None:
                assets |= Listings.read(bytes(rules)).assets.keys()
            resting = connection.execute(select(orders).where(is_active).order_by(orders.c.place)).all()
            had = connection.execute(select(balances).where(balances.c.asset.in_(sorted(assets)))).all()
        return Kept(
            number=0 if last is None else last.last,
            at_ns=0 if last is None else last.at_ns,
            listings=None if rules is None else bytes(rules),
            orders=[_change(row) for row in resting],
            held=[Held(row.owner, row.asset, row.total, row.held) for row in had],
        )

    def commit(self, written: Written) -> None:
        """All of it in one transaction. Raises Unavailable: then it was done or not, whole."""
        with self._writing, refusing(WHAT), self._writer.begin() as connection:
            self._log(connection, written)
            if written.changes:
                rows = [
                    dict(zip(_CHANGE, msgspec.structs.astuple(change), strict=True))
                    | {"status": change.status.value, "gives": gives}
                    for change, gives in written.changes
                ]
                connection.execute(_upsert(connection, orders, ("id",), _CHANGED), rows)
            if written.trades:
                connection.execute(insert(trades), [_trade_row(trade) for trade in written.trades])
            if written.held:
                rows = [
                    {"owner": each.wallet, "asset": each.asset, "total": each.total, "held": each.held}
                    for each in written.held
                ]
                connection.execute(_upsert(connection, balances, ("owner", "asset"), ("total", "held")), rows)
            self._post(connection, written)

    def moved(self, ids: Collection[str]) -> frozenset[str]:
        """Those of the ids under which something was moved already. Raises Unavailable."""
        found: set[str] = set()
        named = sorted(ids)
        for at in range(0, len(named), ASKED_MAX):
            asked = [_move_id(each) for each in named[at : at + ASKED_MAX]]
            rows = self._rows(select(transfers.c.id).where(transfers.c.id.in_(asked)))
            found |= {row.id.removeprefix("move/") for row in rows}
        return frozenset(found)

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
            connection.execute(_upsert(connection, snapshots, ("number",), ("digest", "body")), [row])
            connection.execute(delete(snapshots).where(snapshots.c.number < number))

    # -- what was

    def orders(self, wallet: str, pair: str | None, *, active: bool, offset: int, limit: int) -> Sequence[Change]:
        """Of the wallet, newest first. Raises Unavailable."""
        asked = select(orders).where(orders.c.wallet == wallet, is_active if active else ~is_active)
        if pair is not None:
            asked = asked.where(orders.c.pair == pair)
        rows = self._rows(asked.order_by(orders.c.place.desc()).offset(offset).limit(limit))
        return [_change(row) for row in rows]

    def order(self, wallet: str, id_: str) -> Change | None:
        """The wallet's order with that id. Raises Unavailable."""
        rows = self._rows(select(orders).where(orders.c.id == id_, orders.c.wallet == wallet))
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
        made, took = of.maker_wallet == wallet, of.taker_wallet == wallet
        if buys is not None:
            made, took = made & (of.taker_buys != buys), took & (of.taker_buys == buys)
        asked = select(trades).where(or_(made, took))
        for wanted, condition in (
            (pair, of.pair == pair),
            (order, or_(of.maker == order, of.taker == order)),
            (after_ns, of.at_ns > literal_column(str(after_ns or 0))),
            (until_ns, of.at_ns <= literal_column(str(until_ns or 0))),
        ):
            if wanted is not None:
                asked = asked.where(condition)
        return [_trade(row) for row in self._rows(asked.order_by(of.place.desc()).offset(offset).limit(limit))]

    def public_trades(self, pair: str, offset: int, limit: int) -> Sequence[Trade]:
        """Newest first. Raises Unavailable."""
        asked = select(trades).where(trades.c.pair == pair).order_by(trades.c.place.desc())
        return [_trade(row) for row in self._rows(asked.offset(offset).limit(limit))]

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
        moved: list[_Moved] = []
        made: list[dict[str, Any]] = []
        for _, move in written.moves:
            made.append({"id": _move_id(move.id), "reason": "moved", "at_ns": written.commands[-1].at_ns})
            moved += [
                (made[-1]["id"], ISSUANCE, move.asset, -move.units),
                (made[-1]["id"], move.wallet, move.asset, move.units),
            ]
        for trade in written.trades:
            made.append({"id": f"trade/{trade.id}", "reason": "traded", "at_ns": trade.at_ns})
            moved += _legs(made[-1]["id"], trade, self._pairs[trade.pair])
        if not made:
            return
        connection.execute(insert(transfers), made)
        # Backwards from what is now: before its last move, a wallet had what it has without it.
        totals = {(each.wallet, each.asset): each.total for each in written.held}
        rows: list[dict[str, Any]] = []
        for transfer, owner, asset, amount in reversed(moved):
            total = totals[owner, asset]
            totals[owner, asset] = total - amount
            rows.append({"transfer": transfer, "owner": owner, "asset": asset, "amount": amount, "total": total})
        connection.execute(insert(postings), rows[::-1])

    def _rows(self, asked: Select[Any]) -> Sequence[Any]:
        with self._reading, refusing(WHAT), self._engine.begin() as connection:
            return connection.execute(asked).all()


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


def _upsert(connection: Connection, table: Table, key: Sequence[str], changed: Sequence[str]) -> Any:
    kind = postgresql if connection.dialect.name == "postgresql" else sqlite
    asked = kind.insert(table)
    return asked.on_conflict_do_update(index_elements=list(key), set_={name: asked.excluded[name] for name in changed})


def _move_id(id_: str) -> str:
    return f"move/{id_}"


def _change(row: Any) -> Change:
    told = row._mapping  # noqa: SLF001 - SQLAlchemy's public way to a row's columns
    return Change(**{name: told[name] for name in _CHANGE} | {"status": Status(row.status)})


def _trade_row(trade: Trade) -> dict[str, Any]:
    number, _, n = trade.id.partition("-")
    return dict(zip(_TRADE, msgspec.structs.astuple(trade), strict=True)) | {"place": int(number) * PLACES + int(n)}


def _trade(row: Any) -> Trade:
    told = row._mapping  # noqa: SLF001 - as above
    return Trade(**{name: told[name] for name in _TRADE})
