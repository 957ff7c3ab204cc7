"""How long work is doing: a bar at a terminal, plain lines elsewhere, JSON lines for programs."""

import json
import sys
from collections import deque
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from openoutcry.clock import NS, Clock

DRAWN_S = 0.1  # a bar is drawn at most so often
JSON_S = 1.0  # a program is told of one piece of work at most so often
LINE_S = 5.0  # and who reads a log
PACE_S = 30.0  # the rate is that of so long
SAMPLES_MAX = 64
BARS_MAX = 12  # those that are not whole come first


class Progress:
    """Several pieces of work at once, each under a key that is also what it is called.

        with Progress(clock, as_json=as_json) as bar:
            bar.told("BTC 1m", done=5_000, total=525_600, state="running", failed=0)

    Bars and plain lines go to `err`, JSON lines to `out`. `total` may come late, change, or stay unknown. What is whole, or
    told with `last`, is said at once; all else when its turn comes.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        as_json: bool = False,
        unit: str = "candles",
        out: TextIO | None = None,
        err: TextIO | None = None,
    ) -> None:
        self._clock, self._as_json, self._unit = clock, as_json, unit
        self._out, self._err = out or sys.stdout, err or sys.stderr
        self._works: dict[str, _Work] = {}
        console = Console(file=self._err)
        # Not what rich makes of the environment: a log that is no terminal gets no control codes.
        drawn = not as_json and self._err.isatty() and not console.is_dumb_terminal
        self._drawn_ns = 0
        self._bars = (
            Bars(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[said]}", markup=False),
                console=console,
                auto_refresh=False,
            )
            if drawn
            else None
        )

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._draw()
            self._bars.stop()

    def told(
        self,
        key: str,
        *,
        done: int,
        total: int | None = None,
        state: str | None = None,
        last: bool = False,
        **fields: Any,
    ) -> None:
        """So much of it is done. `fields` are shown beside it, in the order they are given."""
        now_ns = self._clock.now_ns()
        work = self._works.get(key)
        if work is None:
            work = self._works[key] = _Work(now_ns)
        whole = total is not None and done >= total
        at_once = (last or whole) and not work.ended
        work.take(now_ns, done, total, state, fields, ended=last or whole)
        if self._bars is not None:
            if at_once or now_ns - self._drawn_ns >= DRAWN_S * NS:
                self._drawn_ns = now_ns
                self._draw()
        elif at_once or now_ns - work.said_ns >= (JSON_S if self._as_json else LINE_S) * NS:
            work.said_ns = now_ns
            if self._as_json:
                print(json.dumps(work.as_fields(key)), file=self._out, flush=True)
            else:
                print(f"{key}: {work.words(self._unit)}", file=self._err, flush=True)

    def say(self, line: str) -> None:
        """A line on `err`, above the bars."""
        if self._bars is None:
            print(line, file=self._err, flush=True)
        else:
            self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _draw(self) -> None:
        assert self._bars is not None
        shown = set(sorted(self._works, key=lambda key: self._works[key].ended)[:BARS_MAX])
        for key, work in self._works.items():
            if work.bar is None:
                if key not in shown:
                    continue
                work.bar = self._bars.add_task(key, said="")
            self._bars.update(
                work.bar, total=work.total, completed=work.done, said=work.words(self._unit), visible=key in shown
            )
        self._bars.refresh()


class _Work:
    """One piece of work as it was last told."""

    def __init__(self, begun_ns: int) -> None:
        self.said_ns = begun_ns
        self.bar: TaskID | None = None
        self.done = 0
        self.total: int | None = None
        self.ended = False
        self._state: str | None = None
        self._fields: dict[str, Any] = {}
        self._samples: deque[tuple[int, int]] = deque(maxlen=SAMPLES_MAX)

    def take(
        self, now_ns: int, done: int, total: int | None, state: str | None, fields: dict[str, Any], *, ended: bool
    ) -> None:
        self.done, self.total, self._state, self._fields, self.ended = done, total, state, fields, ended
        # The oldest sample that is kept is where the rate is counted from.
        while len(self._samples) > 1 and now_ns - self._samples[1][0] >= PACE_S * NS:
            self._samples.popleft()
        if not self._samples or now_ns - self._samples[-1][0] >= PACE_S * NS / SAMPLES_MAX:
            self._samples.append((now_ns, done))
        self._now_ns = now_ns

    @property
    def rate(self) -> float | None:
        """Done in a second, of late; None where too little is known."""
        since_ns, since = self._samples[0]
        passed_ns, more = self._now_ns - since_ns, self.done - since
        # A clock that was set back tells nothing, nor does work that began anew.
        return more * NS / passed_ns if passed_ns > 0 and more >= 0 else None

    @property
    def left_s(self) -> float | None:
        rate = self.rate
        return None if self.total is None or not rate else max(self.total - self.done, 0) / rate

    def words(self, unit: str) -> str:
        share = "" if not self.total else f" ({min(self.done / self.total, 1):.0%})"
        parts = [f"{self.done:,}{'' if self.total is None else f' of {self.total:,}'} {unit}{share}"]
        if self.rate is not None:
            parts.append(f"{self.rate:,.0f}/s")
        if self.left_s is not None and not self.ended:
            parts.append(f"{_duration(self.left_s)} left")
        parts.extend(f"{name} {value}" for name, value in self._fields.items())
        return ", ".join(parts if self._state is None else [*parts, self._state])

    def as_fields(self, key: str) -> dict[str, Any]:
        rate, left_s = self.rate, self.left_s
        return {
            "progress": key,
            "done": self.done,
            "total": self.total,
            "per_s": None if rate is None else round(rate, 1),
            "left_s": None if left_s is None else round(left_s, 1),
            **({} if self._state is None else {"state": self._state}),
            **self._fields,
        }


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
