"""A bounded queue per follower: conflates or closes, never waits.

A stream to clients is a `Channel`: an event is encoded and framed once and written to all who follow, and the frames of
one turn of the loop leave in one write. What a client does not read stays in its socket's buffer, which is its queue:
`Every` (trades, liquidations) closes a follower whose buffer is full, `Newest` (candles) keeps the newest frame of each
key for it until it reads again. One slow client costs the others nothing.
"""

import asyncio
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

from openoutcry.api.frames import TRY_LATER, Writer, text_frame
from openoutcry.errors import LimitExceeded
from openoutcry.telemetry import Telemetry

LAG_BYTES_MAX = 256 * 1024
LAG_FRAMES_MAX = 1_000
# Old candles are worthless: begin to conflate long before `Every` would close.
NEWEST_BYTES_MAX = 32 * 1024
HELD_MAX = 100
BATCH_FRAMES_MAX = 256
CHANNELS_MAX = 10_000

Stop = Callable[[], None]


class Channel:
    """One stream to many followers, grouped by what each wants of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, bounds: "Bounds") -> None:
        self._loop = loop
        self._bounds = bounds
        self._groups: dict[Any, dict[Writer, None]] = {}

    def add(self, writer: Writer, want: Any) -> None:
        """Let `writer` have what is sent from now on and is wanted."""
        self._groups.setdefault(want, {})[writer] = None

    def remove(self, writer: Writer, want: Any) -> bool:
        """Stop that; says whether nobody is left."""
        group = self._groups.get(want, {})
        group.pop(writer, None)
        if not group:
            self._groups.pop(want, None)
        return not self._groups


class Every(Channel):
    """Nothing may be missing: a follower that lags too far is closed, and comes back to a whole stream.

    `wants` says whether a group takes a frame, from what the group asked for and the tag of the frame.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        bounds: "Bounds",
        wants: Callable[[Any, Any], bool] | None = None,
    ) -> None:
        super().__init__(loop, bounds)
        self._wants = wants
        self._pending: list[tuple[bytes, Any]] = []

    def wanted(self, tag: Any) -> bool:
        """Whether anybody would take a frame with this tag: ask before encoding."""
        wants = self._wants
        return wants is None or any(wants(want, tag) for want in self._groups)

    def send(self, payload: bytes, tag: Any = None) -> None:
        """Send this text to all who want it, with what else comes in this turn of the loop."""
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending.append((text_frame(payload), tag))
        if len(self._pending) >= BATCH_FRAMES_MAX:
            self._flush()

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        wants = self._wants
        for want, group in self._groups.items():
            frames = [frame for frame, tag in pending if wants is None or wants(want, tag)]
            if not frames:
                continue
            joined = frames[0] if len(frames) == 1 else b"".join(frames)
            self._bounds.frames += len(frames) * len(group)
            bytes_max = self._bounds.waiting_bytes_max(len(joined) / len(frames))
            for writer in group:
                if writer.buffered() > bytes_max:
                    self._bounds.lagged += 1
                    writer.finish(TRY_LATER, "too slow: the newest events no longer fit")
                else:
                    writer.write(joined)


class Newest(Channel):
    """Only the newest of each key matters: a follower that lags skips what was replaced meanwhile."""

    def __init__(self, loop: asyncio.AbstractEventLoop, bounds: "Bounds") -> None:
        super().__init__(loop, bounds)
        self._pending: dict[Hashable, bytes] = {}
        self._held: dict[Writer, dict[Hashable, bytes]] = {}

    def add(self, writer: Writer, want: Any) -> None:
        writer.limit(self._bounds.newest_bytes_max)
        writer.relieved = lambda: self._release(writer)
        super().add(writer, want)

    def remove(self, writer: Writer, want: Any) -> bool:
        self._held.pop(writer, None)
        writer.relieved = None
        return super().remove(writer, want)

    def send(self, payload: bytes, key: Hashable) -> None:
        """Send this text to all; it replaces what was to be sent under the same key."""
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending[key] = text_frame(payload)
        if len(self._pending) >= BATCH_FRAMES_MAX:
            self._flush()

    def _flush(self) -> None:
        pending, self._pending = self._pending, {}
        if not pending:
            return
        joined = b"".join(pending.values())
        for group in self._groups.values():
            self._bounds.frames += len(pending) * len(group)
            for writer in group:
                if writer.choked:
                    self._hold(writer, pending)
                else:
                    writer.write(joined)

    def _hold(self, writer: Writer, frames: dict[Hashable, bytes]) -> None:
        held = self._held.setdefault(writer, {})
        self._bounds.conflated += sum(key in held for key in frames)
        held.update(frames)
        while len(held) > HELD_MAX:
            self._bounds.conflated += 1
            del held[next(iter(held))]

    def _release(self, writer: Writer) -> None:
        held = self._held.pop(writer, None)
        if held:
            writer.write(b"".join(held.values()))


class Bounds:
    """How much may wait for one follower, and what became of all."""

    def __init__(self, bytes_max: int, frames_max: int) -> None:
        self._bytes_max = bytes_max
        self._frames_max = frames_max
        self.newest_bytes_max = min(bytes_max, NEWEST_BYTES_MAX)
        self.frames = 0
        self.conflated = 0
        self.lagged = 0
        self.followers = 0

    def waiting_bytes_max(self, frame_bytes: float) -> float:
        """Bytes that may wait for a follower of frames of that size."""
        return min(self._bytes_max, self._frames_max * frame_bytes)


class Push:
    """All channels: the first follower of one opens its source, the last to leave closes it."""

    def __init__(
        self, telemetry: Telemetry, *, bytes_max: int = LAG_BYTES_MAX, frames_max: int = LAG_FRAMES_MAX
    ) -> None:
        """A follower for whom more than `bytes_max` or about `frames_max` frames wait is slow."""
        self.bounds = Bounds(bytes_max, frames_max)
        self._channels: dict[Hashable, tuple[Channel, Stop]] = {}
        gauge = telemetry.gauge("push", "Frames pushed to followers, and what became of slow ones", ("what",))
        for what in ("frames", "conflated", "lagged", "followers"):
            gauge.labels(what).set_function(partial(getattr, self.bounds, what))
        gauge.labels("channels").set_function(lambda: len(self._channels))

    def every(self, wants: Callable[[Any, Any], bool] | None = None) -> Every:
        """A new channel that loses nothing."""
        return Every(asyncio.get_running_loop(), self.bounds, wants)

    def newest(self) -> Newest:
        """A new channel that conflates."""
        return Newest(asyncio.get_running_loop(), self.bounds)

    def join(self, key: Hashable, writer: Writer, begin: Callable[[], tuple[Channel, Stop]], want: Any = None) -> Stop:
        """Follow the channel called `key`; `begin` makes it and starts its source if it is not there yet.

        Returns the way to leave. Raises LimitExceeded, and what `begin` raises.
        """
        found = self._channels.get(key)
        if found is None:
            if len(self._channels) >= CHANNELS_MAX:
                raise LimitExceeded("too many different streams are followed now", 60.0)
            found = self._channels[key] = begin()
        channel, stop = found
        channel.add(writer, want)
        self.bounds.followers += 1
        left = False

        def leave() -> None:
            nonlocal left
            if left:
                return
            left = True
            self.bounds.followers -= 1
            if channel.remove(writer, want):
                del self._channels[key]
                stop()

        return leave
