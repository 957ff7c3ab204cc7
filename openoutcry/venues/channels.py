"""How sockets are asked, where venues agree: for channels of symbols, on one open connection, each a stream `channel:symbol`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from openoutcry import errors
from openoutcry.venues.venue import Feed, Stream

# The venue's word for it, the feeds that come in it, the silence in seconds that is not normal.
Channel = tuple[str, frozenset[Feed], float | None]


class AskedOnceOpen:
    """A venue that is connected to without naming a stream."""

    def url(self, address: str, endpoint: str, streams: Sequence[Stream]) -> str:
        """The configured address itself: streams are asked for on the open connection."""
        assert all(stream.endpoint == endpoint for stream in streams)
        return address


def streams_of(
    venue: str, channels: Mapping[Feed, Channel], feed: Feed, symbols: Iterable[str] | None
) -> Sequence[Stream]:
    """One channel and symbol each, on the venue's one socket. Raises Unsupported."""
    channel = channels.get(feed)
    if channel is None:
        raise errors.Unsupported(f"{venue} has no stream of {feed}")
    if symbols is None:
        raise errors.Unsupported(f"{venue} has no stream of {feed} of all instruments")
    word, feeds, silence_s = channel
    return [Stream(f"{word}:{symbol}", "ws", symbol, feeds, silence_s) for symbol in symbols]


def by_channel(streams: Sequence[Stream], symbols_max: int) -> Iterator[tuple[str, list[str]]]:
    """What each frame asks for: a channel, and at most so many symbols of it."""
    asked: dict[str, list[str]] = {}
    for stream in streams:
        word, _, symbol = stream.name.partition(":")
        asked.setdefault(word, []).append(symbol)
    for word, symbols in asked.items():
        for n in range(0, len(symbols), symbols_max):
            yield word, symbols[n : n + symbols_max]
