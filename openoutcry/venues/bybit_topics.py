"""How Bybit's sockets are asked for topics, whatever the market: their limits, and frames of as many as one may hold.

https://bybit-exchange.github.io/docs/v5/ws/connect

    {"op": "subscribe", "args": ["publicTrade.BTCUSDT", "kline.1.BTCUSDT"]}
    {"op": "ping"}
"""

from collections.abc import Sequence

import msgspec

from openoutcry.venues.bybit_history import BybitHistory
from openoutcry.venues.channels import AskedOnceOpen
from openoutcry.venues.venue import Heartbeat, Limits, Rate, Stream

# A connection takes 21,000 characters of topics; the longest topic, quotes and comma are some 50.
STREAMS_MAX = 400


class BybitTopics(AskedOnceOpen, BybitHistory):
    """The socket half, as far as its markets agree."""

    limits = Limits(
        streams_per_connection=STREAMS_MAX,
        streams_per_subscribe=100,
        messages=Rate(10, 1.0),
        connections=Rate(500, 300.0),
        lifetime_s=86_400.0,
        weights={"weight": Rate(600, 5.0)},
        heartbeat=Heartbeat(20.0, b'{"op":"ping"}'),
        silence_s=45.0,
        shared_pools={"weight": "bybit"},
    )

    def subscribe(self, streams: Sequence[Stream], *, undo: bool = False) -> Sequence[bytes]:
        """Frames of as many topics as the venue takes in one."""
        names = [s.name for s in streams]
        size = self.limits.streams_per_subscribe
        return [self._request_topics(names[i : i + size], undo=undo) for i in range(0, len(names), size)]

    def _request_topics(self, names: Sequence[str], *, undo: bool = False) -> bytes:
        return msgspec.json.encode({"op": "unsubscribe" if undo else "subscribe", "args": list(names)})
