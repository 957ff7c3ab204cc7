"""How a series is asked for page by page, where venues agree: by stretches of time that one answer holds."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from openoutcry import errors
from openoutcry.events import NS, Candle, Event, open_of
from openoutcry.instrument import Instrument
from openoutcry.venues.bounds import MS
from openoutcry.venues.venue import Answer, Ask, Page, Query

# The shortest funding interval: a page of so many rows never spans less than that many hours.
FUNDING_STEP_S = 3_600
# A venue that asks for a longer pause is asked again all the same.
PAUSE_S_MAX = 600.0
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


def candles_page(
    ask: Ask,
    candles: Sequence[Candle],
    window: tuple[int, int],
    first_ns: int,
    *,
    newest: bool,
    now_ns: int,
    sure_ns: int,
) -> Page:
    """What a window of candles says, oldest first, where a venue may leave out intervals without a trade.

    Nothing was traded before `first_ns` (0: not known); nothing that closed after `sure_ns` is known to be final.
    """
    start_ns, end_ns = window
    interval_s = ask.interval_s or 0
    # What is before the first open of the window was not asked for because there is nothing.
    known_ns = start_ns if newest else min(start_ns, ask.start_ns or start_ns)
    until_ns = min(end_ns, open_of(sure_ns, interval_s))
    if ask.limit is not None and len(candles) > ask.limit:
        if newest:
            candles = candles[len(candles) - ask.limit :]
            known_ns = candles[0].open_ns if candles else end_ns
        else:
            candles = candles[: ask.limit]
            until_ns = min(until_ns, candles[-1].open_ns + interval_s * NS if candles else known_ns)
    left = None if ask.limit is None else ask.limit - len(candles)
    following = None
    if newest:
        # Without a bound an empty window is where the history ends.
        if left != 0 and start_ns > max(first_ns, 1) and (candles or first_ns):
            following = msgspec.structs.replace(ask, newest=True, end_ns=start_ns, limit=left)
    elif left != 0 and end_ns < min(now_ns if ask.end_ns is None else ask.end_ns, now_ns):
        following = msgspec.structs.replace(ask, start_ns=end_ns, limit=left)
    return promised(candles, following, known_ns, until_ns)


def symbol_asked(ask: Ask, venue: str) -> str:
    """Of a question about one instrument, which. Raises Unsupported."""
    if not ask.symbol:
        raise errors.Unsupported(f"{venue} tells {ask.query} of one instrument at a time")
    return ask.symbol


def id_asked(from_id: int | str, venue: str) -> int:
    """After which trade, where a venue numbers them. Raises Unsupported."""
    if not isinstance(from_id, int):
        raise errors.Unsupported(f"{venue} numbers its trades")
    return from_id


def pause_s(answer: Answer, untold_s: float) -> float:
    """How long the venue says to wait, in whole seconds; `untold_s` where it does not."""
    told = answer.headers.get("retry-after", "")
    return min(float(told), PAUSE_S_MAX) if told.isascii() and told.isdigit() else untold_s


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
