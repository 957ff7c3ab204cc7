"""Pages followed as the feed does, a history of trades to page through, and what must hold of the two."""

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from openoutcry.events import NS, Event, Trade
from openoutcry.venues.venue import Answer, Ask, Page, Signal, Venue

PAGES_MAX = 100
ROWS_MAX = 6_000
DAY_NS = 86_400 * NS

Serve = Callable[[str, dict[str, str]], Any]
Pages = Callable[[Venue, Ask, Serve], Iterator[Page]]
SpoilFrame = Callable[[Venue, bytes, st.DataObject], None]
SpoilAnswer = Callable[[Venue, Ask, Answer, st.DataObject], None]
Bursts = list[tuple[int, int]]
Rows = list[tuple[int, int]]

BURSTS = st.lists(st.tuples(st.sampled_from([1, 40, 900, 2_500]), st.integers(0, 9_000)), max_size=9)
PLACES = st.none() | st.integers(-1, 101)
LIMITS = st.none() | st.sampled_from([1, 700, 1_000, 2_300])


def walk(
    venue: Venue, ask: Ask, serve: Callable[[str, dict[str, str]], Answer], pages_max: int = PAGES_MAX
) -> Iterator[Page]:
    """Asks page by page; `serve` plays the venue: path and query in, its answer out."""
    following: Ask | None = ask
    for _ in range(pages_max):
        if following is None:
            return
        request = venue.request(following)
        assert request.pool in venue.limits.weights
        page = venue.page(following, serve(request.path, dict(request.query)))
        yield page
        following = page.next
    pytest.fail("the pages do not end")


def answer_of(body: Any, received_ns: int, status: int = 200, **headers: str) -> Answer:
    """A body as it is, or as JSON; `retry_after` is the header retry-after."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, {name.replace("_", "-"): text for name, text in headers.items()}, raw, received_ns)


def one(said: Sequence[Event | Signal]) -> Event | Signal:
    (event,) = said
    return event


def history(bursts: Bursts, now_ns: int, step_ns: int, first_id: int = 1) -> Rows:
    """(id, ns) of the trades of a day, so many after a pause of so many seconds: pages end inside a moment.

    Three hundred fall on one moment; the next is `step_ns` later.
    """
    rows: Rows = []
    for count, pause_s in bursts:
        last_ns = rows[-1][1] if rows else now_ns - DAY_NS
        begin_ns = min(last_ns + pause_s * NS, now_ns - NS)
        many = min(count, ROWS_MAX - len(rows))
        rows += [(first_id + len(rows) + n, begin_ns + n // 300 * step_ns) for n in range(many)]
    return rows


def moment(rows: Rows, place: int | None, now_ns: int, step_ns: int) -> int | None:
    """Of the trade that stands at so many hundredths of them, or `step_ns` after it; before all, and after."""
    if place is None:
        return None
    if not rows or place < 0:
        return now_ns - DAY_NS
    return now_ns if place > 100 else rows[(len(rows) - 1) * place // 100][1] + place % 2 * step_ns


def trades_of(pages: Sequence[Page]) -> list[Trade]:
    return [event for page in pages for event in page.events if isinstance(event, Trade)]


def holds_promises(pages: Sequence[Page], rows: Rows, ask: Ask, now_ns: int) -> None:
    """What lies in a promised stretch was told; and without a limit the stretches are all that was asked for."""
    ids = {trade.id for trade in trades_of(pages)}
    spans = [(p.start_ns, p.end_ns) for p in pages if p.start_ns is not None and p.end_ns is not None]
    for start_ns, end_ns in spans:
        assert {number for number, at_ns in rows if start_ns <= at_ns < end_ns} <= ids
    if ask.limit is None and ask.start_ns is not None:
        reach_ns = ask.start_ns
        for start_ns, end_ns in sorted(spans):
            assert start_ns <= reach_ns
            reach_ns = max(reach_ns, end_ns)
        assert reach_ns >= min(ask.end_ns or now_ns, now_ns)


def frames_of(path: Path) -> Iterator[bytes]:
    """The frames of a recorded connection that came with a time."""
    with gzip.open(path, "rt") as lines:
        for line in lines:
            received, _, body = line.rstrip("\n").partition(": ")
            if received and received[0].isdecimal():
                yield body.encode()
