"""The one way to a venue's REST side: within its budget, patient with its faults, and silent when it says so."""

import asyncio
import contextlib
import random
from collections.abc import Mapping

import structlog

from openoutcry.clock import NS, Clock
from openoutcry.errors import Invalid, RateLimited, Unavailable
from openoutcry.feed.budget import Pool
from openoutcry.telemetry import Telemetry
from openoutcry.transport import Http, Response, TransportError
from openoutcry.venues.venue import Answer, Limits, Request

TRIES_MAX = 3
IN_FLIGHT_MAX = 8
ANSWER_BYTES_MAX = 32 * 1024 * 1024
# How long a question may be held back (budget, pause) before its asker is told to come back: live, and patient.
WAIT_S_MAX = 10.0
PATIENT_WAIT_S_MAX = 90.0
RETRY_S_MIN = 0.25
RETRY_S_MAX = 8.0
# Pauses where the venue names none: too fast, banned, forbidden (Bybit keeps a 403 up for ten minutes).
SLOW_S = 30.0
BANNED_S = 300.0
FORBIDDEN_S = 600.0
# Binance bans for three days at most; whatever claims more is a mistake or malice.
PAUSE_S_MAX = 259_200.0

log = structlog.get_logger()


class Pools:
    """All pools of weight, by name: a venue's own, and those that several venues share."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pools: dict[tuple[str, str], Pool] = {}

    def of(self, venue: str, limits: Limits) -> Mapping[str, Pool]:
        """The pools of a venue by the name its requests use."""
        found: dict[str, Pool] = {}
        for name, rate in limits.weights.items():
            shared = limits.shared_pools.get(name)
            key = ("", shared) if shared else (venue, name)
            if key not in self._pools:
                self._pools[key] = Pool(key[1], rate, self._clock)
            found[name] = self._pools[key]
        return found


class Gate:
    """Sends requests to one venue's address."""

    def __init__(
        self,
        venue: str,
        address: str,
        limits: Limits,
        *,
        pools: Pools,
        http: Http,
        clock: Clock,
        chance: random.Random,
        telemetry: Telemetry,
    ) -> None:
        self.venue = venue
        self.answered_ns: int | None = None
        self.trouble = ""
        self._address = address.rstrip("/")
        self._limits = limits
        self._pools = pools.of(venue, limits)
        self._http = http
        self._clock = clock
        self._chance = chance
        self._paused_until_ns = 0
        self._banned = False
        self._in_flight = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._asked = telemetry.counter("venue_requests", "Questions sent to a venue, by outcome", ("venue", "outcome"))
        self._weight = telemetry.gauge("venue_weight_used", "Request weight used in the window", ("venue", "pool"))
        self._pauses = telemetry.counter("venue_pauses", "Times a venue told us to be silent", ("venue",))

    async def send(self, request: Request, *, patient: bool = False, raw: bool = False) -> Answer:
        """The answer to `request`: any status below 500 that is not a plea to slow down (with `raw`: any status).

        `patient` questions (backfill, polls) wait longer and behind the others. Raises RateLimited, Unavailable.
        """
        if not request.path.startswith("/") or "\\" in request.path:
            raise Invalid("a path begins with a slash")
        until_ns = self._clock.now_ns() + round((PATIENT_WAIT_S_MAX if patient else WAIT_S_MAX) * NS)
        tries = 0
        while True:
            await self._admit(request, patient=patient, until_ns=until_ns)
            tries += 1
            answer, problem = await self._once(request)
            if problem is None:
                assert answer is not None
                return answer
            if tries >= TRIES_MAX or not self._may_retry(until_ns):
                if raw and answer is not None:
                    return answer
                raise problem
            if not isinstance(problem, RateLimited):
                await self._clock.sleep(self._backoff_s(tries))

    def pause(self, seconds: float, *, banned: bool = False) -> None:
        """Ask this venue nothing for so long. A shorter pause never cuts a longer one."""
        seconds = min(max(seconds, RETRY_S_MIN), PAUSE_S_MAX)
        until_ns = self._clock.now_ns() + round(seconds * NS)
        if until_ns <= self._paused_until_ns:
            return
        self._paused_until_ns = until_ns
        self._banned = banned
        self._pauses.labels(self.venue).inc()
        self.trouble = f"asked us to wait {seconds:.0f} s"
        log.warning("venue asks for silence", venue=self.venue, pause_s=round(seconds, 3), banned=banned)

    @property
    def paused_s(self) -> float:
        """Seconds until the venue may be asked again."""
        return max(0.0, (self._paused_until_ns - self._clock.now_ns()) / NS)

    async def _admit(self, request: Request, *, patient: bool, until_ns: int) -> None:
        while True:
            await self._wait_out(until_ns)
            pool = self._pools.get(request.pool)
            if pool is not None and request.weight > 0:
                await pool.take(self.venue, request.weight, patient=patient, until_ns=until_ns)
                self._weight.labels(self.venue, request.pool).set(pool.window.used(self._clock.now_ns()))
            # The wait for budget may have lasted into a pause that somebody else's answer brought.
            if self.paused_s <= 0:
                return

    async def _wait_out(self, until_ns: int) -> None:
        while (wait_s := self.paused_s) > 0:
            if self._paused_until_ns > until_ns:
                raise self._silenced(wait_s)
            # A different length for each who waits, so that they do not all come back in the same instant.
            await self._clock.sleep(wait_s + self._chance.uniform(0, RETRY_S_MIN))

    def _silenced(self, wait_s: float) -> RateLimited:
        return RateLimited(self.venue, f"{self.venue} asked us to slow down", wait_s, banned=self._banned)

    def _may_retry(self, until_ns: int) -> bool:
        return max(self._paused_until_ns, self._clock.now_ns()) < until_ns

    async def _once(self, request: Request) -> tuple[Answer | None, Unavailable | None]:
        async with self._in_flight:
            if self.paused_s > 0:
                return None, self._silenced(self.paused_s)
            try:
                response = await self._http.send(
                    request.method,
                    self._address + request.path,
                    query=request.query,
                    headers=None if request.body is None else {"content-type": "application/json"},
                    body=request.body,
                )
            except TransportError as e:
                self._asked.labels(self.venue, "unreachable").inc()
                self.trouble = f"does not answer ({e})"
                return None, Unavailable(self.venue, f"{self.venue} does not answer ({e})")
        answer = Answer(response.status, response.headers, response.body, self._clock.now_ns())
        return answer, self._judge(answer, response, request)

    def _judge(self, answer: Answer, response: Response, request: Request) -> Unavailable | None:
        self._asked.labels(self.venue, str(answer.status)).inc()
        self._adopt(response, request)
        if len(answer.body) > ANSWER_BYTES_MAX:
            return Unavailable(self.venue, f"{self.venue} answered with more than {ANSWER_BYTES_MAX} bytes")
        pause_s = _pause_s(answer)
        if pause_s is not None:
            self.pause(pause_s, banned=answer.status in {403, 418})
            return self._silenced(self.paused_s)
        if answer.status >= 500:
            self.trouble = f"answers with status {answer.status}"
            return Unavailable(self.venue, f"{self.venue} answers with status {answer.status}")
        self.answered_ns = answer.received_ns
        self.trouble = ""
        return None

    def _adopt(self, response: Response, request: Request) -> None:
        header = self._limits.weight_header
        told = response.headers.get(header.lower()) if header else None
        # The header speaks of the venue's general pool, which is the first it lists.
        general = next(iter(self._pools), None)
        if told is None or general is None or request.pool != general or not told.isascii() or not told.isdigit():
            return
        pool = self._pools[general]
        pool.window.adopt(int(told[:9]), self._clock.now_ns())
        self._weight.labels(self.venue, general).set(pool.window.used(self._clock.now_ns()))

    def _backoff_s(self, tries: int) -> float:
        return self._chance.uniform(RETRY_S_MIN, min(RETRY_S_MAX, RETRY_S_MIN * 4.0**tries))


def _pause_s(answer: Answer) -> float | None:
    """How long the whole venue must not be asked, or None where the answer is no such plea."""
    named = _retry_after_s(answer.headers)
    if answer.status == 429:
        return SLOW_S if named is None else named
    if answer.status == 418:
        return BANNED_S if named is None else named
    if answer.status == 403:
        return FORBIDDEN_S if named is None else named
    if answer.status == 503:
        return named
    return None


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    told = headers.get("retry-after", "")[:20]
    # The HTTP-date form is not used by any venue here; the defaults stand in for it.
    with contextlib.suppress(ValueError):
        seconds = float(told)
        if 0 <= seconds < float("inf"):
            return seconds
    return None
