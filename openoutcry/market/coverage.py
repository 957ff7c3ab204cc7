"""Which stretches of a series we have, know to be empty, miss, or are refused: interval algebra without any I/O."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence

from openoutcry.market.series import SeriesKey, Span, State

# A series asked in ever more splinters forgets its oldest ones: what is forgotten counts as missing and is asked again.
SPANS_MAX = 1_000
BEGINNING_NS = -(2**63)
END_NS = 2**63 - 1


class Coverage:
    """What is known of one series, as spans in order of time; what was said last counts."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self._spans: list[Span] = []
        self._starts: list[int] = []
        for span in spans:
            self.add(span.start_ns, span.end_ns, span.state)

    @property
    def spans(self) -> tuple[Span, ...]:
        """All that is known, in order; neighbours differ in state or do not touch."""
        return tuple(self._spans)

    def add(self, start_ns: int, end_ns: int, state: State) -> None:
        """Say that [start_ns, end_ns) is `state`; MISSING takes back what was said before."""
        if start_ns >= end_ns:
            return
        first = self._at_or_after(start_ns)
        after = bisect_left(self._starts, end_ns)
        pieces: list[Span] = []
        if first < after:
            head, tail = self._spans[first], self._spans[after - 1]
            if head.start_ns < start_ns:
                pieces.append(Span(head.start_ns, start_ns, head.state))
            if state is not State.MISSING:
                pieces.append(Span(start_ns, end_ns, state))
            if tail.end_ns > end_ns:
                pieces.append(Span(end_ns, tail.end_ns, tail.state))
        elif state is not State.MISSING:
            pieces.append(Span(start_ns, end_ns, state))
        # The neighbours take part, so that equal states that touch become one span.
        low, high = max(first - 1, 0), min(after + 1, len(self._spans))
        merged = _merge([*self._spans[low:first], *pieces, *self._spans[after:high]])
        self._spans[low:high] = merged
        self._starts[low:high] = [span.start_ns for span in merged]
        if len(self._spans) > SPANS_MAX:
            del self._spans[0], self._starts[0]

    def query(self, start_ns: int, end_ns: int) -> list[Span]:
        """The states of [start_ns, end_ns) without a hole between them: what is not known is MISSING."""
        told: list[Span] = []
        at = start_ns
        for span in self._spans[self._at_or_after(start_ns) :]:
            if span.start_ns >= end_ns:
                break
            if span.start_ns > at:
                told.append(Span(at, span.start_ns, State.MISSING))
            at = min(span.end_ns, end_ns)
            told.append(Span(max(span.start_ns, start_ns), at, span.state))
        if at < end_ns:
            told.append(Span(at, end_ns, State.MISSING))
        return told

    def missing(self, start_ns: int, end_ns: int) -> list[tuple[int, int]]:
        """The stretches of [start_ns, end_ns) that a venue could still be asked for."""
        return [(span.start_ns, span.end_ns) for span in self.query(start_ns, end_ns) if span.state is State.MISSING]

    def absent(self, start_ns: int, end_ns: int) -> list[tuple[int, int]]:
        """The stretches of [start_ns, end_ns) that nobody has: missing or refused."""
        return _joined(
            (span.start_ns, span.end_ns)
            for span in self.query(start_ns, end_ns)
            if span.state in (State.MISSING, State.REFUSED)
        )

    def whole(self, start_ns: int, end_ns: int) -> bool:
        """Whether all of [start_ns, end_ns) is had or known to be empty."""
        at = start_ns
        index = self._at_or_after(start_ns)
        while at < end_ns:
            if index >= len(self._spans):
                return False
            span = self._spans[index]
            if span.start_ns > at or span.state is State.REFUSED:
                return False
            at = span.end_ns
            index += 1
        return True

    def run_start(self, end_ns: int) -> int:
        """Where the unbroken whole stretch that reaches up to `end_ns` begins; `end_ns` itself where none does."""
        at = end_ns
        index = bisect_left(self._starts, end_ns) - 1
        while index >= 0:
            span = self._spans[index]
            if span.end_ns < at or span.state is State.REFUSED:
                break
            at = span.start_ns
            index -= 1
        return at

    def _at_or_after(self, at_ns: int) -> int:
        """Index of the first span that ends after `at_ns`."""
        index = bisect_right(self._starts, at_ns)
        return index - 1 if index and self._spans[index - 1].end_ns > at_ns else index


class Book:
    """The coverage of every series, and which of it the store has not been told yet."""

    def __init__(self, known: Mapping[SeriesKey, Sequence[Span]]) -> None:
        self._of = {key: Coverage(spans) for key, spans in known.items()}
        self._keys: dict[str, set[SeriesKey]] = {}
        for key in self._of:
            self._keys.setdefault(key.instrument, set()).add(key)
        self._untold: set[SeriesKey] = set()
        # Changes whenever a series is spoken of for the first time.
        self.firsts = 0

    def of(self, key: SeriesKey) -> Coverage:
        """What is known of that series; to be changed only through `add`."""
        return self._of.get(key) or Coverage()

    def keys(self, instrument: str) -> Sequence[SeriesKey]:
        """The series of that instrument of which anything was ever said."""
        return tuple(self._keys.get(instrument, ()))

    def all(self) -> Iterable[SeriesKey]:
        """Every series of which anything was ever said; not to be kept."""
        return self._of.keys()

    def add(self, key: SeriesKey, start_ns: int, end_ns: int, state: State) -> None:
        """Say it of one series; the store is told with the next batch."""
        coverage = self._of.get(key)
        if coverage is None:
            if state is State.MISSING:
                return
            coverage = self._of[key] = Coverage()
            self.firsts += 1
            self._keys.setdefault(key.instrument, set()).add(key)
        coverage.add(start_ns, end_ns, state)
        self._untold.add(key)

    @property
    def untold(self) -> frozenset[SeriesKey]:
        """Series whose coverage changed since the store was told."""
        return frozenset(self._untold)

    def take(self, key: SeriesKey) -> tuple[Span, ...]:
        """The coverage to write for that series, which counts as told from now on."""
        self._untold.discard(key)
        return self.of(key).spans

    def untake(self, keys: Iterable[SeriesKey]) -> None:
        """The store did not take it after all."""
        self._untold.update(keys)


def _merge(spans: Sequence[Span]) -> list[Span]:
    merged: list[Span] = []
    for span in spans:
        last = merged[-1] if merged else None
        if last is not None and last.end_ns == span.start_ns and last.state is span.state:
            merged[-1] = Span(last.start_ns, span.end_ns, span.state)
        else:
            merged.append(span)
    return merged


def _joined(stretches: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start_ns, end_ns in stretches:
        if joined and joined[-1][1] == start_ns:
            joined[-1] = (joined[-1][0], end_ns)
        else:
            joined.append((start_ns, end_ns))
    return joined
