"""Series in memory: for tests, and as the plainest statement of what a store does."""

from collections.abc import Mapping, Sequence
from typing import Any

from openoutcry.events import Liquidation, Trade
from openoutcry.instrument import Instrument
from openoutcry.market.series import Batch, Columns, Of, Row, SeriesKey, Span, columns_of, time_of


class MemorySeries:
    """Series in dicts, gone with the process."""

    def __init__(self) -> None:
        self._rows: dict[SeriesKey, dict[tuple[Any, ...], Row]] = {}
        self._spans: dict[SeriesKey, tuple[Span, ...]] = {}
        self._listings: dict[str, list[Instrument]] = {}

    def write(self, batch: Batch) -> None:
        """Store the batch."""
        for key, rows in batch.rows.items():
            self._rows.setdefault(key, {}).update((_place(row), row) for row in rows)
        self._spans.update({key: tuple(known) for key, known in batch.spans.items()})

    def read(
        self,
        key: SeriesKey,
        *,
        start_ns: int | None = None,
        end_ns: int | None = None,
        limit: int | None = None,
        newest: bool = False,
    ) -> Sequence[Row]:
        """Rows of [start_ns, end_ns), oldest first: the first `limit`, or with `newest` the last."""
        rows = [
            row
            for place, row in sorted(self._rows.get(key, {}).items())
            if (start_ns is None or place[0] >= start_ns) and (end_ns is None or place[0] < end_ns)
        ]
        if limit is None:
            return rows
        return rows[max(len(rows) - limit, 0) :] if newest else rows[:limit]

    def columns(self, key: SeriesKey, *, start_ns: int, end_ns: int, limit: int | None = None) -> Columns:
        """The same rows as columns, without an object for each; the first `limit`."""
        return columns_of(key.of, self.read(key, start_ns=start_ns, end_ns=end_ns, limit=limit))

    def coverages(self) -> Mapping[SeriesKey, Sequence[Span]]:
        """All that is known of all series."""
        return {key: known for key, known in self._spans.items() if known}

    def keys(self, of: Of) -> Sequence[SeriesKey]:
        """The series of that sort that were ever written."""
        return [key for key in self._rows if key.of is of]

    def prune(self, key: SeriesKey, before_ns: int, rows_max: int) -> int:
        """Delete the oldest rows before `before_ns`, about `rows_max` at most."""
        rows = self._rows.get(key, {})
        old = sorted(place for place in rows if place[0] < before_ns)
        gone = [place for place in old if place[0] <= old[min(rows_max, len(old)) - 1][0]]
        for place in gone:
            del rows[place]
        return len(gone)

    def save_listing(self, venue: str, instruments: Sequence[Instrument]) -> None:
        """Replace what the venue lists."""
        self._listings[venue] = sorted(instruments, key=lambda each: each.symbol)

    def listing(self, venue: str) -> Sequence[Instrument]:
        """What the venue listed when last asked."""
        return self._listings.get(venue, [])

    def close(self) -> None:
        """Nothing to let go of."""


def _place(row: Row) -> tuple[Any, ...]:
    if isinstance(row, Trade):
        return (row.event_ns, row.seq, f"{'#' if isinstance(row.id, int) else '='}{row.id}")
    if isinstance(row, Liquidation):
        return (row.event_ns, row.id)
    return (time_of(row),)
