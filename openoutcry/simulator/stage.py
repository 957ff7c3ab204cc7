"""One venue on the air: its lines, its pump, its limits and what goes wrong with it."""

from collections.abc import Iterable, Iterator

import structlog

from openoutcry.simulator.faults import Switches, garbage, wrong_type
from openoutcry.simulator.kit import Answer, Asked, Frame, Line, Personality
from openoutcry.simulator.limits import Meter

NS = 1_000_000_000
CATCH_UP_NS = (
    30 * NS
)  # after a longer pause of the whole process the stretch before is left out, as a venue's outage would
HTML = b"<!DOCTYPE html><html><head><title>Maintenance</title></head><body>We will be back soon.</body></html>"

log = structlog.get_logger()


class Stage:
    """Runs one personality. `now_ns` is handed to every step; nothing here asks for the time."""

    def __init__(self, personality: Personality, meter: Meter, now_ns: int) -> None:
        self.personality = personality
        self.lines: set[Line] = set()
        self.sent = 0
        self._meter = meter
        self._pumped_ns = now_ns
        self._held: dict[str, Frame] = {}  # by topic: the frame that disorder makes wait for the next one

    @property
    def name(self) -> str:
        """The venue."""
        return self.personality.name

    @property
    def switches(self) -> Switches:
        """Its faults."""
        return self.personality.switches

    # Questions

    async def answer(self, asked: Asked, now_ns: int) -> Answer:
        """One REST answer, with limits and faults."""
        faults, personality = self.switches, self.personality
        if faults.storm is not None and (
            faults.storm_share >= 1.0 or personality.faults.happens(self.name, "storm", faults.storm_share)
        ):
            retry = () if faults.retry_after_s is None else (("Retry-After", str(faults.retry_after_s)),)
            return Answer(faults.storm, personality.storm(faults.storm), retry)
        if faults.html:
            return Answer(200, HTML, (), "text/html; charset=utf-8")
        cost = personality.cost(asked)
        if cost is None:
            return await personality.answer(asked, now_ns)
        pool, units = cost
        purse = personality.purse or self.name
        verdict = self._meter.charge(f"{purse}/{pool}", personality.pools[pool], asked.address, units, now_ns)
        headers = personality.used(pool, verdict)
        answer = (
            personality.refuse(pool, verdict)
            if verdict.retry_s is not None
            else await personality.answer(asked, now_ns)
        )
        return answer._replace(headers=answer.headers + headers)

    # Lines

    def admit(self, path: str, address: str, now_ns: int) -> str | int:
        """The endpoint a WebSocket may open, or the HTTP status that refuses it."""
        endpoint = self.personality.endpoint(path)
        if endpoint is None:
            return 404
        if self.switches.refuse_connections:
            return 503
        allowed = self.personality.connections
        if allowed and self._meter.charge(f"{self.name}/connections", allowed, address, 1, now_ns).retry_s is not None:
            return 429
        return endpoint

    def open(self, line: Line) -> None:
        """A WebSocket was opened."""
        self.lines.add(line)
        line.mute = self.switches.silence == "all"
        self.personality.opened(line)

    def heard(self, line: Line, text: bytes, now_ns: int) -> None:
        """A client said something."""
        line.now_ns = line.heard_ns = now_ns
        allowed = self.personality.messages
        if allowed and self._meter.charge(f"line {id(line)}", allowed, "", 1, now_ns).retry_s is not None:
            line.close(1008, "Too many requests")
            return
        if not line.mute:
            self.personality.heard(line, text)

    def gone(self, line: Line) -> None:
        """A WebSocket is closed."""
        line.open = False
        self.lines.discard(line)

    # Time

    def pump(self, now_ns: int) -> None:
        """Send what the world made since the last turn, and what the faults make of it."""
        faults = self.switches
        end_ns = now_ns - round(faults.slow_s * NS)
        start_ns = max(self._pumped_ns, end_ns - CATCH_UP_NS)
        for line in list(self.lines):
            line.now_ns = now_ns
            line.mute = faults.silence == "all"
        self._once(faults)
        if end_ns > start_ns:
            self._pumped_ns = end_ns
            if faults.silence is None:
                self._push(start_ns, end_ns)
        for line in list(self.lines):
            if line.open and not line.mute:
                self.personality.beat(line)
        self._end_lives(faults, now_ns)

    def _once(self, faults: Switches) -> None:
        for line in list(self.lines):
            if faults.cut:
                line.cut(faults.cut)
            if faults.shutdown:
                self._announce(line)
            if faults.huge_bytes:
                line.send(b'{"e":"%b"}' % (b"x" * faults.huge_bytes))
        faults.cut, faults.shutdown, faults.huge_bytes = None, False, 0

    def _announce(self, line: Line) -> None:
        if not line.announced:
            line.announced = True
            line.memo["ends_ns"] = line.now_ns + round(self.switches.notice_s * NS)
            self.personality.announce(line)

    def _end_lives(self, faults: Switches, now_ns: int) -> None:
        life_s = self.personality.life_s if faults.life_s is None else faults.life_s
        for line in list(self.lines):
            if life_s is not None and now_ns >= line.opened_ns + round((life_s - faults.notice_s) * NS):
                self._announce(line)
            if line.announced and now_ns >= line.memo["ends_ns"]:
                line.close(1001, "Going away")

    def _push(self, start_ns: int, end_ns: int) -> None:
        followed = sorted({topic for line in self.lines if line.open for topic in line.topics})
        made: dict[str, list[Frame]] = {}
        for topic in followed:
            frames = list(self._spoilt(topic, self.personality.frames(topic, start_ns, end_ns)))
            if frames:
                made[topic] = frames
        if not made:
            return
        for line in list(self.lines):
            out = [
                (frame.ns, self.personality.wrap(line, topic, frame.body))
                for topic, since_ns in line.topics.items()
                for frame in made.get(topic, ())
                if frame.ns >= since_ns
            ]
            if len(line.topics) > 1:
                out.sort(key=_moment)
            self.sent += len(out)
            line.send(*(body for _, body in out))

    def _spoilt(self, topic: str, frames: Iterable[Frame]) -> Iterator[Frame]:
        faults, dice, name = self.switches, self.personality.faults, self.name
        # The usual case costs nothing.
        if not (faults.gap or faults.duplicate or faults.disorder or faults.garbage or faults.wrong_type or self._held):
            yield from frames
            return
        for made in frames:
            frame = made
            if frame.trade and dice.happens(name, "gap", faults.gap):
                continue
            if dice.happens(name, "garbage", faults.garbage):
                yield frame._replace(body=garbage(dice.dice(name, "garbage"), frame.body), trade=False)
            if dice.happens(name, "wrong_type", faults.wrong_type):
                frame = frame._replace(body=wrong_type(dice.dice(name, "wrong_type"), frame.body))
            if frame.trade and topic not in self._held and dice.happens(name, "disorder", faults.disorder):
                self._held[topic] = frame
                continue
            yield frame
            if frame.trade and dice.happens(name, "duplicate", faults.duplicate):
                yield frame
            if frame.trade and topic in self._held:
                # It carries the moment of the frame it now follows, or sorting by time would put it right again.
                yield self._held.pop(topic)._replace(ns=frame.ns)


def _moment(row: tuple[int, bytes]) -> int:
    return row[0]
