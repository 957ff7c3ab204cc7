"""A till over real books, SQLite and PostgreSQL."""

from collections.abc import AsyncIterator, Callable

import pytest
from sqlalchemy import URL

from openoutcry.stores.ledger import SqlLedger
from tests.llm.calls import GRANTED, Till


@pytest.fixture
async def till(open_books: Callable[[], SqlLedger], books_url: URL) -> AsyncIterator[Till]:
    """`a` has ten thousand micros. In the end nothing is held, and all that was paid has its row."""
    made = Till(open_books(), books_url)
    await made.open()
    await made.grant("a", GRANTED)
    yield made
    await made.close()
    await made.checked()
    made.usage.close()
