"""Candles as they are kept: what there is, what is missing, and pages of them put in. No venue is ever asked from here."""

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from openoutcry.clock import NS, Clock
from openoutcry.events import Candle, open_of
from openoutcry.market.coverage import Book, Coverage
from openoutcry.market.latest import Latest
from openoutcry.market.outside import Outside
from openoutcry.market.series import CandleTexts, Check, Of, Series, SeriesKey, State, Summary
from openoutcry.market.tasks import Task
from openoutcry.market.writer import Writer

# A closed candle may still be on its way from the venue (polled every few seconds) for so long: it is not missing yet.
LAG_S = 10.0
GAPS_MAX = 10_000
BEGINNING_NS, END_NS = -(2**63), 2**63 - 1


class Absence(msgspec.Struct, frozen=True):
    """[start_ns, end_ns) without a candle: from the first missing open time to the open time of the first one after.

    `at_source`: the venue was asked and has nothing there (it was checked at `checked_ns`, where that is known).
    """

    start_ns: int
    end_ns: int
    at_source: bool = False
    checked_ns: int | None = None


class Stored:
    """Answers from the store alone, with what still waits for it. Every method raises Unavailable where it cannot serve."""

    def __init__(
        self, *, outside: Outside, series: Series, book: Book, writer: Writer, latest: Latest, clock: Clock
    ) -> None:
        self._outside, self._series, self._book = outside, series, book
        self._writer, self._latest, self._clock = writer, latest, clock

    async def summaries(self) -> Mapping[SeriesKey, Summary]:
        """What is stored of every series of candles that has a row. Costs the same however many rows there are."""
        return await asyncio.to_thread(self._series.summaries)

    async def summary(self, key: SeriesKey) -> Summary | None:
        """Of one series, what waits for the store included; None where it has no row."""
        await self._settle(key)
        return await asyncio.to_thread(self._series.summary, key)

    async def texts(
        self, key: SeriesKey, *, limit: int, start_ns: int | None = None, end_ns: int | None = None
    ) -> Sequence[CandleTexts]:
        """Closed candles, oldest first, numbers as the text of their Decimal: the first `limit` from a given start (up to
        a given end), else the newest.
        """
        await self._settle(key)
        return await asyncio.to_thread(
            self._series.texts,
            key,
            start_ns=BEGINNING_NS if start_ns is None else start_ns,
            end_ns=END_NS if end_ns is None else end_ns,
            limit=limit,
            newest=start_ns is None,
        )

    async def gaps(
        self,
        key: SeriesKey,
        *,
        start_ns: int | None = None,
        end_ns: int | None = None,
        listed_ns: int | None = None,
        limit: int = GAPS_MAX,
        newest: bool = False,
    ) -> Sequence[Absence]:
        """What is missing between the first and the last stored candle, or of [start_ns, end_ns) where it is given.

        Nothing is missing before `listed_ns`, in the running bucket, or in what closed less than LAG_S ago; nor where a
        venue that leaves out quiet buckets was heard. In order of time, the first `limit`, or the last with `newest`.
        """
        step_ns = key.interval_s * NS
        summary = await self.summary(key)
        if summary is None and (start_ns is None or end_ns is None):
            return []
        if start_ns is None:
            assert summary is not None
            start_ns = summary.first_ns
        if end_ns is None:
            assert summary is not None
            end_ns = summary.last_ns + step_ns
        if listed_ns is not None:
            start_ns = max(start_ns, open_of(listed_ns, key.interval_s))
        start_ns = open_of(start_ns + step_ns - 1, key.interval_s)
        end_ns = min(open_of(end_ns + step_ns - 1, key.interval_s), self._over_ns(key))
        if summary is not None and start_ns < summary.first_ns:
            # A venue that was asked for the time before its first candle said how it all began.
            start_ns = min(self._begun_ns(key, start_ns), summary.first_ns)
        return await self._absences(key, start_ns, end_ns, limit, newest=newest)

    async def lacking(
        self, key: SeriesKey, start_ns: int, end_ns: int, *, limit: int = GAPS_MAX, newest: bool = False
    ) -> Sequence[tuple[int, int]]:
        """The stretches of [start_ns, end_ns) that the venue can still be asked for, in order of time: the first `limit` or
        so, or the last. Both bounds lie on the grid. Empty where there is none at all.
        """
        if self._omits(key):
            # A bucket without a row says nothing there: what was heard does.
            stretches = self._book.of(key).missing(start_ns, end_ns)
            return stretches[max(len(stretches) - limit, 0) :] if newest else stretches[:limit]
        await self._settle(key)
        found: list[tuple[int, int]] = []
        while not found and start_ns < end_ns:
            holes = await asyncio.to_thread(self._series.holes, key, start_ns, end_ns, limit, newest=newest)
            if not holes:
                break
            checks = await asyncio.to_thread(self._series.checks, key, holes[0][0], holes[-1][1])
            told = self._known(key, holes[0][0], holes[-1][1], checks)
            found = [stretch for hole in holes for stretch in told.missing(*hole)]
            start_ns, end_ns = (start_ns, holes[0][0]) if newest else (holes[-1][1], end_ns)
        return found

    async def keep(
        self,
        key: SeriesKey,
        rows: Sequence[Candle],
        covered: tuple[int, int] | None,
        *,
        refused: tuple[int, int] | None = None,
        task: Task | None = None,
    ) -> None:
        """Closed candles that the venue told just now, and the task they were fetched for: in one transaction.

        `covered` is the stretch that they are all of, `refused` one that the venue will never serve. Raises Unavailable
        where the store does not take them; the candles may get there later all the same, and may be handed in again.
        """
        said: list[tuple[int, int, State]] = []
        if refused is not None:
            said += [(*stretch, State.REFUSED) for stretch in self._book.of(key).missing(*refused)]
        step_ns = key.interval_s * NS
        times = [row.open_ns for row in rows]
        checks: Sequence[Check] = ()
        if covered is not None:
            inside = [at_ns for at_ns in times if covered[0] <= at_ns < covered[1]]
            checks = self._checked(key, inside, covered)
            said.append((*covered, State.EMPTY))
            if inside:
                said.append((min(inside), max(inside) + step_ns, State.HAVE))
                times = [at_ns for at_ns in times if not covered[0] <= at_ns < covered[1]]
        said += [(at_ns, at_ns + step_ns, State.HAVE) for at_ns in times]
        await self._writer.commit(key, rows, said, checks, task)
        self._latest.fill(key, rows)

    # -- what is known of buckets without a row

    async def _absences(self, key: SeriesKey, start_ns: int, end_ns: int, limit: int, *, newest: bool) -> list[Absence]:
        if start_ns >= end_ns:
            return []
        stretches = [(start_ns, end_ns)]
        if self._omits(key):
            stretches = self._book.of(key).absent(start_ns, end_ns)
        holes: list[tuple[int, int]] = []
        for stretch in reversed(stretches) if newest else stretches:
            more = await asyncio.to_thread(self._series.holes, key, *stretch, limit - len(holes), newest=newest)
            holes = [*more, *holes] if newest else [*holes, *more]
            if len(holes) >= limit:
                break
        if not holes:
            return []
        checks = await asyncio.to_thread(self._series.checks, key, holes[0][0], holes[-1][1])
        told = self._known(key, holes[0][0], holes[-1][1], checks)
        return [Absence(*hole, not told.missing(*hole), _last_check(checks, hole)) for hole in holes]

    def _known(self, key: SeriesKey, start_ns: int, end_ns: int, checks: Sequence[Check]) -> Coverage:
        """Where asking again is pointless, rows or not."""
        known = Coverage()
        # A venue that writes quiet buckets may have one, or may have been late with it, where our own trades, or an answer
        # that somebody waited for, say that nothing was traded: there only a check counts.
        silent = {State.HAVE, State.EMPTY, State.REFUSED} if self._omits(key) else {State.REFUSED}
        for span in self._book.of(key).query(start_ns, end_ns):
            if span.state in silent:
                known.add(span.start_ns, span.end_ns, State.EMPTY)
        for check in checks:
            known.add(check.start_ns, check.end_ns, State.EMPTY)
        return known

    def _begun_ns(self, key: SeriesKey, start_ns: int) -> int:
        first = self._book.of(key).query(start_ns, END_NS)[0]
        return first.end_ns if first.state is State.EMPTY else start_ns

    def _checked(self, key: SeriesKey, times: Sequence[int], covered: tuple[int, int]) -> list[Check]:
        """The buckets of `covered` for which the venue had nothing, and will not have: it may be late with quiet ones."""
        if self._omits(key):
            return []
        now_ns, step_ns = self._clock.now_ns(), key.interval_s * NS
        late_ns = round(self._outside.limits(key.instrument.partition(":")[0]).candles_late_s * NS)
        end_ns = min(covered[1], open_of(now_ns - late_ns, key.interval_s))
        checks: list[Check] = []
        at_ns = covered[0]
        for each_ns in (*sorted(times), end_ns):
            if at_ns < min(each_ns, end_ns):
                checks.append(Check(at_ns, min(each_ns, end_ns), now_ns))
            at_ns = each_ns + step_ns
        return checks

    def _omits(self, key: SeriesKey) -> bool:
        return self._outside.limits(key.instrument.partition(":")[0]).quiet_candles == "omitted"

    def _over_ns(self, key: SeriesKey) -> int:
        """The end of the last bucket that must be there by now."""
        return open_of(self._clock.now_ns() - round(LAG_S * NS), key.interval_s)

    async def _settle(self, key: SeriesKey) -> None:
        # What waits for the store goes there first, so that there is one place to read from.
        if key.of is Of.CANDLES and self._writer.waiting(key):
            await self._writer.flush()


def _last_check(checks: Sequence[Check], hole: tuple[int, int]) -> int | None:
    return max((c.checked_ns for c in checks if c.start_ns < hole[1] and hole[0] < c.end_ns), default=None)
