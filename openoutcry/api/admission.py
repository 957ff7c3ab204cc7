"""Who is calling, may they, count it: the same gate for all dialects.

Callers are known by their address. The rate is a generic cell rate: an address may use `burst` at once and earns one
more every `1 / per_s` seconds, and one number an address is all that is kept.
"""

from collections import Counter
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

from openoutcry.clock import NS, Clock
from openoutcry.errors import LimitExceeded

ADDRESSES_MAX = 100_000
_LOOPBACK = ("127.", "::1")


class Rate:
    """How fast one caller may go."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._step_ns = round(NS / per_s)
        self._burst_ns = self._step_ns * burst
        self._due_ns = 0

    def wait_s(self, now_ns: int) -> float:
        """Take one; 0, or the seconds until one may be taken (then none was)."""
        due_ns = max(self._due_ns, now_ns) + self._step_ns
        over_ns = due_ns - now_ns - self._burst_ns
        if over_ns > 0:
            return over_ns / NS
        self._due_ns = due_ns
        return 0.0

    def full(self, now_ns: int) -> bool:
        """Whether nothing of it is used: forgetting it changes nothing."""
        return self._due_ns <= now_ns


class Admission:
    """Requests a second and open connections, per address and in all.

    `requests_per_s` None: no limit of rate. `loopback` False: callers on this machine are not limited.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        requests_per_s: float | None = 50.0,
        burst: int = 200,
        sockets_max: int = 10_000,
        sockets_per_address_max: int = 200,
        loopback: bool = False,
    ) -> None:
        self._clock = clock
        self._per_s = requests_per_s
        self._burst = burst
        self._sockets_max = sockets_max
        self._sockets_per_address_max = sockets_per_address_max
        self._loopback = loopback
        self._rates: dict[str, Rate] = {}
        self._open: Counter[str] = Counter()
        self.connections = 0
        self.refused = 0

    def request(self, address: str) -> None:
        """Count one request of that address. Raises LimitExceeded."""
        if self._per_s is None or self._free(address):
            return
        now_ns = self._clock.now_ns()
        caller = network(address)
        rate = self._rates.get(caller)
        if rate is None:
            if len(self._rates) >= ADDRESSES_MAX:
                self._forget(now_ns)
            rate = self._rates[caller] = Rate(self._per_s, self._burst)
        wait_s = rate.wait_s(now_ns)
        if wait_s:
            self.refused += 1
            raise LimitExceeded(f"too many requests from this address: try again in {wait_s:.3f} s", wait_s)

    def connect(self, address: str) -> Callable[[], None]:
        """Count one open WebSocket; returns the way to say it is closed. Raises LimitExceeded."""
        self.request(address)
        caller = network(address)
        if self.connections >= self._sockets_max:
            self.refused += 1
            raise LimitExceeded("the server holds as many connections as it may: try again later", 10.0)
        if not self._free(address) and self._open[caller] >= self._sockets_per_address_max:
            self.refused += 1
            raise LimitExceeded(f"more than {self._sockets_per_address_max} connections from this address", 10.0)
        self.connections += 1
        self._open[caller] += 1

        def close() -> None:
            self.connections -= 1
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]

        return close

    def _free(self, address: str) -> bool:
        return not self._loopback and address.startswith(_LOOPBACK)

    def _forget(self, now_ns: int) -> None:
        self._rates = {caller: rate for caller, rate in self._rates.items() if not rate.full(now_ns)}
        # All of them busy: the ones known longest make room, which errs in favour of the caller.
        for caller in list(self._rates)[: max(0, len(self._rates) - ADDRESSES_MAX * 9 // 10)]:
            del self._rates[caller]


def network(address: str) -> str:
    """Whom an address stands for: a household has a whole /64 of IPv6, so that counts as one caller."""
    if ":" not in address:
        return address
    try:
        whole = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(whole, IPv6Address):
        return str(whole.ipv4_mapped) if whole.ipv4_mapped else f"{IPv6Address(int(whole) >> 64 << 64)}/64"
    return address
