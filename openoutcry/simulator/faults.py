"""What can be wrong with a simulated venue: switches for each, seeded, changed while it runs.

faults.set("binance_futures", gap=0.05, garbage=0.01)     # shares of frames
faults.set("binance_futures", cut="rst")                  # once, for every open WebSocket
faults.set("binance_futures", storm=429, retry_after_s=3)
faults.clear("binance_futures")
"""

import random
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

HUGE_BYTES = 17 * 1024 * 1024

Cut = Literal["rst", "close", "abnormal"]


class Switches(msgspec.Struct, kw_only=True):
    """All faults of one venue; the defaults are a venue without any. Shares are chances between 0 and 1."""

    # Connections
    cut: Cut | None = (
        None  # once: "rst" resets TCP, "close" sends a close frame, "abnormal" ends TCP without one (1006)
    )
    refuse_connections: bool = False  # upgrades are answered 503
    silence: Literal["streams", "all"] | None = None  # nothing is pushed; "all": nothing is answered either (half open)
    life_s: float | None = (
        None  # every connection is closed after so long, announced `notice_s` before where the venue does
    )
    shutdown: bool = False  # once: the same for every open connection, now
    notice_s: float = 10.0
    refuse_subscriptions: frozenset[str] | bool = False  # these topics (True: all) are refused in the venue's words
    # Frames
    gap: float = 0.0  # trade frames that are never sent
    duplicate: float = 0.0  # trade frames sent twice
    disorder: float = 0.0  # trade frames sent after the one that follows them
    garbage: float = 0.0  # frames that something unreadable is put before
    wrong_type: float = 0.0  # frames in which one value is replaced by one of a wrong type or size
    huge_bytes: int = 0  # once: a frame of that many bytes on every connection
    slow_s: float = 0.0  # answers and frames come that much later
    # Answers
    storm: int | None = None  # every answer has this status
    storm_share: float = 1.0  # ... or this share of them
    retry_after_s: int | None = None
    html: bool = False  # every answer is an HTML page with status 200
    # Files of the archive are not there, cut short, or others than their checksums say.
    archive: Literal["missing", "cut", "checksum"] | None = None
    # What is told
    skew_s: float = 0.0  # the venue's clock (server time, event times) is wrong by so much; trade times are not
    renamed: Mapping[str, str] = {}  # old symbol -> new: the old one is gone, the new one goes on with its data
    delisted: frozenset[str] = frozenset()
    late_klines_s: float = 0.0  # a closed candle is pushed that much later


class Faults:
    """The switches of all venues, and the dice they are thrown with: same seed, same order of questions, same faults."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._switches: dict[str, Switches] = {}
        self._dice: dict[tuple[str, str], random.Random] = {}

    def of(self, venue: str) -> Switches:
        """The venue's switches as they stand."""
        return self._switches.setdefault(venue, Switches())

    def set(self, venue: str, **switches: Any) -> None:
        """Change these switches and leave the others. Raises TypeError for a name that is none, ValidationError for a value."""
        known = msgspec.structs.asdict(self.of(venue))
        unknown = switches.keys() - known.keys()
        if unknown:
            raise TypeError(f"no such fault: {', '.join(sorted(unknown))}")
        self._switches[venue] = msgspec.convert(known | switches, Switches)

    def clear(self, venue: str) -> None:
        """No faults from now on."""
        self._switches[venue] = Switches()

    def happens(self, venue: str, kind: str, share: float) -> bool:
        """Throw that venue's dice of that kind."""
        return share > 0.0 and self.dice(venue, kind).random() < share

    def dice(self, venue: str, kind: str) -> random.Random:
        """Seeded by the world's seed, the venue and the kind."""
        found = self._dice.get((venue, kind))
        if found is None:
            # Not for secrets: the same seed must give the same faults.
            found = self._dice[venue, kind] = random.Random(f"{self._seed}/{venue}/{kind}")  # noqa: S311
        return found


_GARBAGE: tuple[Callable[[bytes], bytes], ...] = (
    lambda _: b"",
    lambda _: b"null",
    lambda _: b"[]",
    lambda _: b"\xff\xfe\x00not text",
    lambda _: b"<html><body>502 Bad Gateway</body></html>",
    lambda frame: frame[: len(frame) // 2],
    lambda frame: frame + b"}",
    lambda _: b"[" * 2_000,
)
_WRONG: tuple[Any, ...] = (None, "NaN", "Infinity", "-1", "0", "", -1, 1e308, True, [], {}, "1e999999", 10**25)


def garbage(dice: random.Random, frame: bytes) -> bytes:
    """Something that is not a frame, sometimes made of one."""
    return dice.choice(_GARBAGE)(frame)


def wrong_type(dice: random.Random, frame: bytes) -> bytes:
    """The frame with one of its values replaced; a frame that is not JSON stays as it is."""
    try:
        value = msgspec.json.decode(frame)
    except msgspec.DecodeError:
        return frame
    places = list(_leaves(value))
    if not places:
        return frame
    holder, name = dice.choice(places)
    holder[name] = dice.choice(_WRONG)
    return msgspec.json.encode(value)


def _leaves(value: Any) -> list[tuple[Any, Any]]:
    rows = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found: list[tuple[Any, Any]] = []
    for name, inner in rows:
        found += _leaves(inner) if isinstance(inner, (dict, list)) and inner else [(value, name)]
    return found
