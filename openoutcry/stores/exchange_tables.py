"""The tables of the exchange, in the ledger's database: what it holds is written with the balances."""

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, Index, Integer, LargeBinary, MetaData, Table, Text
from sqlalchemy.sql.expression import literal_column

metadata = MetaData()

# Commands as they came, a row for each batch.
log = Table(
    "exchange_log",
    metadata,
    Column("first", BigInteger, primary_key=True, autoincrement=False),
    Column("last", BigInteger, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    CheckConstraint("last >= first", name="a_batch_of_something"),
)
listings = Table(
    "exchange_listings",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("body", LargeBinary, nullable=False),
)
snapshots = Table(
    "exchange_snapshots",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("digest", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
)
# A place is the key: rows are added at the end, and found again without looking for their id.
_Place = BigInteger().with_variant(Integer, "sqlite")
orders = Table(
    "exchange_orders",
    metadata,
    Column("place", _Place, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False, unique=True),
    Column("wallet", Text, nullable=False),
    Column("pair", Text, nullable=False),
    Column("buys", Boolean, nullable=False),
    Column("market", Boolean, nullable=False),
    Column("ticks", BigInteger, nullable=False),
    Column("lots", BigInteger, nullable=False),
    Column("left", BigInteger, nullable=False),
    # What it holds of the asset that it gives: the balance's `held` is the sum of these and of the open holds.
    Column("reserve", BigInteger, nullable=False),
    Column("gives", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("made_ns", BigInteger, nullable=False),
    Column("changed_ns", BigInteger, nullable=False),
    Column("traded_ns", BigInteger),
    CheckConstraint('lots > 0 AND "left" BETWEEN 0 AND lots', name="left_of_what_was_asked"),
    CheckConstraint('reserve >= 0 AND (reserve = 0 OR "left" > 0)', name="reserve_for_what_is_left"),
    CheckConstraint("(reserve > 0) = (status IN ('placed', 'partially_matched'))", name="active_orders_reserve"),
    CheckConstraint(
        "status IN ('placed', 'partially_matched', 'matched', 'cancelled', 'replaced')", name="a_status_of_ours"
    ),
    CheckConstraint("(\"left\" = 0) = (status = 'matched')", name="matched_is_nothing_left"),
    Index("exchange_orders_of_wallet", "wallet", "place"),
)
active = orders.c.reserve > literal_column("0")
# The few that rest are found among the many that did.
Index("exchange_orders_active", orders.c.wallet, orders.c.place, sqlite_where=active, postgresql_where=active)
trades = Table(
    "exchange_trades",
    metadata,
    Column("place", _Place, primary_key=True, autoincrement=False),
    Column("pair", Text, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("ticks", BigInteger, nullable=False),
    Column("lots", BigInteger, nullable=False),
    Column("quote", BigInteger, nullable=False),
    Column("taker_buys", Boolean, nullable=False),
    Column("maker", Text, nullable=False),
    Column("maker_wallet", Text, nullable=False),
    Column("taker", Text, nullable=False),
    Column("taker_wallet", Text, nullable=False),
    Column("maker_fee", BigInteger, nullable=False),
    Column("taker_fee", BigInteger, nullable=False),
    CheckConstraint("ticks > 0 AND lots > 0 AND quote > 0", name="trades_of_something"),
    CheckConstraint("maker_fee >= 0 AND taker_fee >= 0", name="fees_are_taken"),
    CheckConstraint("maker_wallet <> taker_wallet", name="nobody_trades_with_himself"),
    # Times only grow with places, so that one index finds both.
    Index("exchange_trades_of_pair", "pair", "at_ns", "place"),
    Index("exchange_trades_of_maker", "maker_wallet", "place"),
    Index("exchange_trades_of_taker", "taker_wallet", "place"),
    Index("exchange_trades_of_maker_order", "maker"),
    Index("exchange_trades_of_taker_order", "taker"),
)
