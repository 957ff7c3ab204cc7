"""How fast somebody may go who is known by a name alone: an address, an e-mail.

The rate is a generic cell rate: a name may use `burst` at once and earns one more every `1 / per_s` seconds, and one
number a name is all that is kept.
"""

from ipaddress import IPv6Address, ip_address

from openoutcry.clock import NS

NAMES_MAX = 100_000


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


class Rates:
    """A rate for each name, NAMES_MAX at most."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s = per_s
        self._burst = burst
        self._rates: dict[str, Rate] = {}

    def __len__(self) -> int:
        return len(self._rates)

    def wait_s(self, name: str, now_ns: int) -> float:
        """Take one of that name's; 0, or the seconds until one may be taken (then none was)."""
        rate = self._rates.get(name)
        if rate is None:
            if len(self._rates) >= NAMES_MAX:
                self._forget(now_ns)
            rate = self._rates[name] = Rate(self._per_s, self._burst)
        return rate.wait_s(now_ns)

    def _forget(self, now_ns: int) -> None:
        self._rates = {name: rate for name, rate in self._rates.items() if not rate.full(now_ns)}
        # All of them busy: the ones known longest make room, which errs in favour of the caller.
        for name in list(self._rates)[: max(0, len(self._rates) - NAMES_MAX * 9 // 10)]:
            del self._rates[name]


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
