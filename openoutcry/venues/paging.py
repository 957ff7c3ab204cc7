"""How a series is asked for page by page, where venues agree: by stretches of time that one answer holds."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from openoutcry import errors
from openoutcry.events import NS, Event, open_of
from openoutcry.instrument import Instrument
from openoutcry.venues.bounds import MS
from openoutcry.venues.venue import Ask, Page, Query

# The shortest funding interval: a page of so many rows never spans less than that many hours.
FUNDING_STEP_S = 3_600
_T = TypeVar("_T")


def stretch(ask: Ask, rows_max: int, listed: Instrument | None) -> tuple[int | None, int | None, int]:
    """[start_ns, end_ns) that one answer is asked for, and its rows: small enough that the venue's order does not matter.

    Nothing is asked for before the instrument was listed, where that is known.
    """
    rows = rows_max if ask.limit is None else max(1, min(rows_max, ask.limit))
    if ask.newest or ask.start_ns is None:
        return ask.start_ns, ask.end_ns, rows
    step_s = FUNDING_STEP_S if ask.query is Query.FUNDING_HISTORY else ask.interval_s or 1
    start_ns = ask.start_ns
    if listed is not None and listed.listed_ns is not None:
        start_ns = max(start_ns, open_of(listed.listed_ns, step_s))
    if ask.query is not Query.FUNDING_HISTORY:
        # The next open: a bucket that opens before the start is not asked for.
        start_ns = open_of(start_ns + step_s * NS - 1, step_s)
    end_ns = start_ns + rows * step_s * NS
    if ask.end_ns is not None:
        end_ns = max(start_ns + MS, min(end_ns, ask.end_ns))
    return start_ns, end_ns, rows


def promised(events: Sequence[Event], following: Ask | None, start_ns: int | None, end_ns: int) -> Page:
    """A page that is complete for [start_ns, end_ns), or that promises nothing where that is no stretch."""
    if start_ns is None or start_ns >= end_ns:
        return Page(events=events, next=following)
    return Page(events=events, next=following, start_ns=start_ns, end_ns=end_ns)


def code_of(ask: Ask, codes: Mapping[int, str]) -> str:
    """The venue's word for the interval asked for. Raises BadInterval."""
    code = codes.get(ask.interval_s or 0)
    if code is None:
        raise errors.BadInterval(f"{ask.interval_s} s is none of {sorted(codes)}")
    return code


def read_rows(data: msgspec.Raw, shape: type[_T]) -> _T:
    """What an answer holds, numbers as text or not. Raises DecodeError, ValidationError."""
    return msgspec.json.decode(data, type=shape, strict=False)


def instruments_of(
    rows: Sequence[msgspec.Raw], read: Callable[[msgspec.Raw], Instrument]
) -> tuple[list[Instrument], int]:
    """Those of a listing that can be read, and how many cannot. Raises ValueError where none can."""
    read_ones, unread = _those_read(rows, read)
    if unread and not read_ones:
        raise ValueError("no instrument of the listing can be read")
    return read_ones, unread


def events_of(rows: Sequence[msgspec.Raw], read: Callable[[msgspec.Raw], Sequence[Event]]) -> tuple[list[Event], int]:
    """What the rows about many instruments say, and how many cannot be read. Raises ValueError where none can."""
    said, unread = _those_read(rows, read)
    if unread and not said:
        raise ValueError("no row of the answer can be read")
    return [event for events in said for event in events], unread


def _those_read(rows: Sequence[msgspec.Raw], read: Callable[[msgspec.Raw], _T]) -> tuple[list[_T], int]:
    said: list[_T] = []
    unread = 0
    for row in rows:
        try:
            said.append(read(row))
        except (msgspec.MsgspecError, ValueError, ArithmeticError, KeyError):
            unread += 1  # one bad row must not cost the others
    return said, unread
