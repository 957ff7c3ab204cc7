"""The table of the exchange's inbox, in the ledger's database."""

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, LargeBinary, MetaData, Table, Text

metadata = MetaData()

# What commands of the operator's ask while a server has the exchange, and what became of it.
inbox = Table(
    "exchange_inbox",
    metadata,
    Column("id", Text, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("asked_ns", BigInteger, nullable=False),
    Column("answered_ns", BigInteger),
    Column("refused", Text),
    CheckConstraint("refused IS NULL OR answered_ns IS NOT NULL", name="what_is_refused_is_answered"),
    Index("exchange_inbox_answered", "answered_ns"),
)
waits = inbox.c.answered_ns.is_(None)
