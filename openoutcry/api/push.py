"""A bounded queue per follower: conflates or closes, never waits.

A stream to clients is a `Channel`: an event is encoded and framed once and written to all who follow, and the frames of
one turn of the loop leave in one write. What a client does not read stays in its socket's buffer, which is its queue:
`Every` (trades, liquidations) closes a follower whose buffer is full, `Newest` (candles) keeps the newest frame of each
key for it until it reads again. `Final` is for a `Reader`, which follows many channels over one connection: the newest
frame of each waits for it, and every final one. One slow client costs the others nothing.
"""

import asyncio
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any, Generic, TypeVar

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
# What may wait for a reader of many channels, whose final frames are not dropped.
READER_BYTES_MAX = 1024 * 1024

Stop = Callable[[], None]
_F_contra = TypeVar("_F_contra", contravariant=True)
_W = TypeVar("_W")


class Channel(Generic[_F_contra]):
    """One stream to many followers, grouped by what each wants of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, bounds: "Bounds") -> None:
        self._loop = loop
        self._bounds = bounds
        self._groups: dict[Any, dict[_F_contra, None]] = {}

    def add(self, follower: _F_contra, want: Any) -> None:
        """Let it have what is sent from now on and is wanted."""
        self._groups.setdefault(want, {})[follower] = None

    def remove(self, follower: _F_contra, want: Any) -> bool:
        """Stop that; says whether nobody is left."""
        group = self._groups.get(want, {})
        group.pop(follower, None)
        if not group:
            self._groups.pop(want, None)
        return not self._groups


class Every(Channel[Writer]):
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


class Newest(Channel[Writer]):
    """Only the newest of each key matters: a follower that lags skips what was replaced meanwhile."""

    def __init__(self, loop: asyncio.AbstractEventLoop, bounds: "Bounds") -> None:
        super().__init__(loop, bounds)
        self._pending: dict[Hashable, bytes] = {}
        self._held: dict[Writer, dict[Hashable, bytes]] = {}

    def add(self, follower: Writer, want: Any) -> None:
        follower.limit(self._bounds.newest_bytes_max)
        follower.relieved = lambda: self._release(follower)
        super().add(follower, want)

    def remove(self, follower: Writer, want: Any) -> bool:
        self._held.pop(follower, None)
        follower.relieved = None
        return super().remove(follower, want)

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


class Reader:
    """One connection that follows many channels. All that is said to it goes through here."""

    def __init__(self, writer: Writer, bounds: "Bounds", *, bytes_max: int = READER_BYTES_MAX) -> None:
        """A reader for whom more than `bytes_max` waits is closed: what waits then is final, or answers it asked for."""
        self.writer = writer
        self._bounds = bounds
        self._bytes_max = bytes_max
        # By channel, and None for its newest frame or a number for a final one; oldest first.
        self._held: dict[tuple[Hashable, int | None], bytes] = {}
        self._held_bytes = 0
        writer.limit(bounds.newest_bytes_max)
        writer.relieved = self._release

    def write(self, frames: bytes) -> None:
        """Say this to it alone, now."""
        self.writer.write(frames)
        if self.writer.choked:
            self._check()

    def hold(self, channel: Hashable, frames: Mapping[int | None, bytes]) -> None:
        """Keep these until it reads: the newest of a channel replaces the one before, which goes behind what is final."""
        for number, frame in frames.items():
            key = (channel, number)
            replaced = self._held.pop(key, b"")
            self._bounds.conflated += bool(replaced)
            self._held[key] = frame
            self._held_bytes += len(frame) - len(replaced)
        self._check()

    def drop(self, channel: Hashable) -> None:
        """Say nothing more of that channel."""
        for key in [key for key in self._held if key[0] == channel]:
            self._held_bytes -= len(self._held.pop(key))

    def close(self) -> None:
        """Let go of the connection."""
        self.writer.relieved = None
        self._held.clear()
        self._held_bytes = 0

    def _check(self) -> None:
        if self._held_bytes + self.writer.buffered() > self._bytes_max:
            self._bounds.lagged += 1
            self._held.clear()
            self._held_bytes = 0
            self.writer.finish(TRY_LATER, "too slow: what must not be missed no longer fits")

    def _release(self) -> None:
        if self._held:
            joined = b"".join(self._held.values())
            self._held.clear()
            self._held_bytes = 0
            self.writer.write(joined)


class Final(Channel[Reader]):
    """Only the newest frame matters, and each final one. `want` is what the text of a follower's frames begins with.

    Who wants None keeps the channel open, and is given nothing.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, bounds: "Bounds") -> None:
        super().__init__(loop, bounds)
        self._pending: dict[int | None, bytes] = {}
        self._numbered = 0

    def add(self, follower: Reader, want: Any) -> None:
        # What was sent before is not for this one.
        self._flush()
        super().add(follower, want)

    def remove(self, follower: Reader, want: Any) -> bool:
        if want is not None:
            follower.drop(self)
        return super().remove(follower, want)

    def send(self, tail: bytes, *, final: bool) -> None:
        """Send to all what their texts begin with and `tail`; it replaces the newest before it, if that is not final."""
        if not self._pending:
            self._loop.call_soon(self._flush)
        if final:
            self._numbered += 1
            self._pending[self._numbered] = tail
        else:
            self._pending.pop(None, None)
            self._pending[None] = tail
        if len(self._pending) >= BATCH_FRAMES_MAX:
            self._flush()

    def _flush(self) -> None:
        pending, self._pending = self._pending, {}
        if not pending:
            return
        for want, group in self._groups.items():
            if want is None:
                continue
            frames = {number: text_frame(want + tail) for number, tail in pending.items()}
            joined = b"".join(frames.values())
            self._bounds.frames += len(frames) * len(group)
            for reader in group:
                if reader.writer.choked:
                    reader.hold(self, frames)
                else:
                    reader.writer.write(joined)


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
        self._channels: dict[Hashable, tuple[Channel[Any], Stop]] = {}
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

    def final(self) -> Final:
        """A new channel that conflates all but what is final."""
        return Final(asyncio.get_running_loop(), self.bounds)

    def join(
        self, key: Hashable, follower: _W, begin: Callable[[], tuple[Channel[_W], Stop]], want: Any = None
    ) -> Stop:
        """Follow the channel called `key`; `begin` makes it and starts its source if it is not there yet.

        Returns the way to leave. Raises LimitExceeded, and what `begin` raises.
        """
        found = self._channels.get(key)
        if found is None:
            if len(self._channels) >= CHANNELS_MAX:
                raise LimitExceeded("too many different streams are followed now", 60.0)
            found = self._channels[key] = begin()
        channel, stop = found
        channel.add(follower, want)
        self.bounds.followers += 1
        left = False

        def leave() -> None:
            nonlocal left
            if left:
                return
            left = True
            self.bounds.followers -= 1
            if channel.remove(follower, want):
                del self._channels[key]
                stop()

        return leave
