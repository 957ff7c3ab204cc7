"""Streams of what changes: first what is there, then each change, and a word now and then while nothing changes.

What a client has not taken yet waits in a box of its stream's: where only the newest counts (levels, prices, tickers,
balances) it replaces what waits there, and what counts one by one (trades, orders) waits up to a number. Nobody waits for
a client: one that takes nothing for STALLED_S_MAX is let go.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from openoutcry.api.lykke import contract, encode
from openoutcry.api.lykke.contract import Message
from openoutcry.clock import Clock
from openoutcry.errors import LimitExceeded, Refusal
from openoutcry.telemetry import Telemetry
from openoutcry.trading.views import BalanceView, BookView

# A client that takes no message for so long is let go.
STALLED_S_MAX = 30.0
# One that takes nothing is not waited for when its stream ends for another reason.
ENDED_S_MAX = 0.5
# Of a stream: levels that changed, and events that count one by one.
LEVELS_WAITING_MAX = 100_000
EVENTS_WAITING_MAX = 10_000
# Messages that were made last: whoever follows the same takes the same bytes.
MADE_KEPT_MAX = 64
RETRY_S = 1.0

TOO_SLOW = "too slow: what was not read no longer fits"

_V = TypeVar("_V")
_V_contra = TypeVar("_V_contra", contravariant=True)
Stop = Callable[[], None]
Write = Callable[[bytes], Awaitable[None]]


class Box(Protocol[_V_contra]):
    """What a stream has still to tell."""

    def put(self, view: _V_contra) -> None:
        """One more. Raises LimitExceeded."""
        ...

    def take(self) -> bytes | None:
        """The next message; None: there is nothing to tell."""
        ...

    def word(self, said: bytes | None, now_ns: int) -> bytes:
        """A message that changes nothing, after the one that was told last."""
        ...


class Once(Generic[_V]):
    """Messages of views, each made once for all who tell it."""

    def __init__(self, make: Callable[[_V], Message]) -> None:
        self._make = make
        # The view is kept beside its bytes, or another might get its id.
        self._made: dict[int, tuple[_V, bytes]] = {}

    def __call__(self, view: _V) -> bytes:
        """Its bytes."""
        made = self._made.get(id(view))
        if made is None:
            if len(self._made) >= MADE_KEPT_MAX:
                del self._made[next(iter(self._made))]
            made = self._made[id(view)] = (view, self._make(view).SerializeToString())
        return made[1]


class Books:
    """Levels that changed, by pair. `pair` is what a word is of."""

    def __init__(self, made: Once[BookView], pair: str) -> None:
        self._made = made
        self._pair = pair
        self._waiting: dict[str, BookView | _Levels] = {}

    def put(self, view: BookView) -> None:
        """One more; a level that waits already is replaced."""
        waiting = self._waiting.get(view.pair)
        if waiting is None:
            self._waiting[view.pair] = view
            return
        if not isinstance(waiting, _Levels):
            waiting = self._waiting[view.pair] = _Levels(waiting)
        waiting.add(view)
        if len(waiting) > LEVELS_WAITING_MAX:
            raise LimitExceeded(TOO_SLOW, RETRY_S)

    def take(self) -> bytes | None:
        """The next pair's."""
        if not self._waiting:
            return None
        self._pair = next(iter(self._waiting))
        view = self._waiting.pop(self._pair)
        if isinstance(view, _Levels):
            return _bytes(encode.book(view.view(self._pair)))
        return self._made(view)

    def word(self, said: bytes | None, now_ns: int) -> bytes:
        """No level has changed."""
        del said
        return _bytes(contract.Orderbook(assetPairId=self._pair, timestamp=encode.time(now_ns)))


class _Levels:
    """Changes of a pair's levels that became one."""

    def __init__(self, view: BookView) -> None:
        self._at_ns = view.at_ns
        self._bids, self._asks = dict(view.bids), dict(view.asks)

    def __len__(self) -> int:
        return len(self._bids) + len(self._asks)

    def add(self, view: BookView) -> None:
        """These changed later."""
        self._at_ns = view.at_ns
        self._bids.update(view.bids)
        self._asks.update(view.asks)

    def view(self, pair: str) -> BookView:
        """All of it, best first."""
        bids, asks = sorted(self._bids.items(), reverse=True), sorted(self._asks.items())
        return BookView(pair=pair, at_ns=self._at_ns, bids=bids, asks=asks)


class Paired(Protocol):
    """A view of a pair of which only the newest counts."""

    @property
    def pair(self) -> str:
        """Its id."""
        ...


_P = TypeVar("_P", bound=Paired)


class Newest(Generic[_P]):
    """The newest view of each pair. `nothing` is the message of no pair."""

    def __init__(self, made: Once[_P], nothing: type[Message]) -> None:
        self._made = made
        self._nothing = nothing
        self._waiting: dict[str, _P] = {}

    def put(self, view: _P) -> None:
        """One more; the pair's that waits is replaced."""
        self._waiting[view.pair] = view

    def take(self) -> bytes | None:
        """The next pair's."""
        return self._made(self._waiting.pop(next(iter(self._waiting)))) if self._waiting else None

    def word(self, said: bytes | None, now_ns: int) -> bytes:
        """The last one again."""
        return _bytes(self._nothing(timestamp=encode.time(now_ns))) if said is None else said


class Balances:
    """The newest balance of each asset, all that wait in one message."""

    def __init__(self) -> None:
        self._waiting: dict[str, BalanceView] = {}

    def put(self, views: Iterable[BalanceView]) -> None:
        """What changed at once."""
        self._waiting |= {view.asset: view for view in views}

    def take(self) -> bytes | None:
        """All that wait."""
        if not self._waiting:
            return None
        waiting, self._waiting = self._waiting, {}
        return _bytes(encode.balances(waiting.values()))

    def word(self, said: bytes | None, now_ns: int) -> bytes:
        """The last message again."""
        del now_ns
        return _bytes(contract.BalanceUpdate()) if said is None else said


class Each(Generic[_V]):
    """Events that count one by one: a word of them is a message without any, for one told twice would be two."""

    def __init__(self, made: Once[Sequence[_V]]) -> None:
        self._made = made
        self._waiting: deque[Sequence[_V]] = deque()
        self._events = 0

    def put(self, views: Sequence[_V]) -> None:
        """What happened at once: it is told at once."""
        self._events += len(views)
        if self._waiting and self._events > EVENTS_WAITING_MAX:
            raise LimitExceeded(TOO_SLOW, RETRY_S)
        self._waiting.append(views)

    def take(self) -> bytes | None:
        """The next."""
        if not self._waiting:
            return None
        views = self._waiting.popleft()
        self._events -= len(views)
        return self._made(views)

    def word(self, said: bytes | None, now_ns: int) -> bytes:
        """Nothing has happened."""
        del said, now_ns
        return self._made(())


class Stream(Generic[_V]):
    """One client's. It ends when it is told to, or where the client is too slow."""

    def __init__(self, box: Box[_V], clock: Clock, stalled_s: float) -> None:
        self._box = box
        self._clock = clock
        self._stalled_s = stalled_s
        self._more = asyncio.Event()
        self._due = self._over = False
        self._refusal: Refusal | None = None
        self._said: bytes | None = None
        self._writing: asyncio.Timeout | None = None

    def hear(self, view: _V) -> None:
        """Something changed."""
        if self._over:
            return
        try:
            self._box.put(view)
        except LimitExceeded as e:
            self.end(e)
        self._more.set()

    def due(self) -> None:
        """Say something, also where nothing has changed."""
        self._due = True
        self._more.set()

    def end(self, refusal: Refusal | None = None) -> None:
        """Tell no more but what waits; with a refusal not even that."""
        if self._over:
            return
        self._over, self._refusal = True, refusal
        self._more.set()
        writing, end_s = self._writing, asyncio.get_running_loop().time() + ENDED_S_MAX
        if writing is not None and not writing.expired() and (writing.when() or end_s) >= end_s:
            writing.reschedule(end_s)

    async def tell(self, first: Iterable[bytes], write: Write) -> None:
        """The first messages, and what is heard, until it ends. Raises the refusal that ended it."""
        for begun in first:
            await self._say(begun, write)
        while True:
            message = self._box.take()
            if message is None and self._due:
                message = self._box.word(self._said, self._clock.now_ns())
            self._due = False
            if message is not None:
                await self._say(message, write)
            elif self._over:
                break
            else:
                self._more.clear()
                await self._more.wait()
        self._check()

    def _check(self) -> None:
        if self._refusal is not None:
            raise self._refusal

    async def _say(self, message: bytes, write: Write) -> None:
        self._check()
        try:
            async with asyncio.timeout(self._stalled_s) as self._writing:
                await write(message)
        except TimeoutError:
            self._check()
            raise LimitExceeded(f"too slow: nothing was read for {self._stalled_s:g} s", RETRY_S) from None
        finally:
            self._writing = None
        self._said = message


class Streams:
    """All streams that are open: how many of whom, and that each says something at least every `ping_s`."""

    def __init__(
        self,
        clock: Clock,
        telemetry: Telemetry,
        *,
        ping_s: float,
        of_caller_max: int,
        stalled_s: float = STALLED_S_MAX,
    ) -> None:
        self._clock = clock
        self._ping_s = ping_s
        self._of_caller_max = of_caller_max
        self._stalled_s = stalled_s
        self._open: dict[Stream[object], str] = {}
        self._of: Counter[str] = Counter()
        self._beat: asyncio.Task[None] | None = None
        self._leaving = False
        gauge = telemetry.gauge("lykke_streams", "Streams of Lykke's dialect that are open.")
        gauge.set_function(lambda: len(self._open))

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def opened(self, caller: str, box: Box[_V]) -> Iterator[Stream[_V]]:
        """A stream of that caller's, while it is open. Raises LimitExceeded."""
        if self._of[caller] >= self._of_caller_max:
            raise LimitExceeded(f"more than {self._of_caller_max} streams at once", RETRY_S)
        stream = Stream(box, self._clock, self._stalled_s)
        self._open[stream] = caller  # type: ignore[index]
        self._of[caller] += 1
        if self._beat is None:
            self._beat = asyncio.create_task(self._beats())
        if self._leaving:
            stream.end()
        try:
            yield stream
        finally:
            del self._open[stream]  # type: ignore[arg-type]
            self._of[caller] -= 1
            if not self._of[caller]:
                del self._of[caller]
            if not self._open:
                self._beat.cancel()
                self._beat = None

    def leave(self) -> None:
        """End all, and whoever comes later at once: the server goes."""
        self._leaving = True
        for stream in tuple(self._open):
            stream.end()

    async def _beats(self) -> None:
        while True:
            await self._clock.sleep(self._ping_s)
            for stream in tuple(self._open):
                stream.due()


def _bytes(message: Message) -> bytes:
    encoded: bytes = message.SerializeToString()
    return encoded
