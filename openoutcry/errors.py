"""Every refusal a caller can receive, as one tree with stable codes; and what can go wrong with a venue."""


class Refusal(Exception):
    """An answer of no. `code` is stable; the text is for people and never holds an upstream address or a secret."""

    code = "refused"

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Unknown(Refusal):
    """What was asked for does not exist."""

    code = "unknown"


class UnknownVenue(Unknown):
    """No venue of that name."""

    code = "unknown_venue"


class UnknownInstrument(Unknown):
    """The venue does not list it."""

    code = "unknown_instrument"


class UnknownModel(Unknown):
    """No language model of that name."""

    code = "model_not_found"


class Unsupported(Refusal):
    """The venue lacks the feature."""

    code = "unsupported"


class Invalid(Refusal):
    """The question is malformed."""

    code = "invalid"


class ContextTooLong(Invalid):
    """A conversation that is longer than the language model takes."""

    code = "context_length_exceeded"


class BadInterval(Invalid):
    """An interval nobody can serve; the text names those allowed."""

    code = "bad_interval"


class BadRange(Invalid):
    """Start after end, or out of reach."""

    code = "bad_range"


class NoData(Refusal):
    """There is nothing to work with, also after asking for it."""

    code = "no_data"


class TooLarge(Refusal):
    """A body, frame or question above its limit."""

    code = "too_large"


class InsufficientFunds(Refusal):
    """What is free does not cover it."""

    code = "insufficient_funds"


class Conflict(Refusal):
    """The id was used for something else, or what was asked contradicts what was done."""

    code = "conflict"


class OtherContent(Conflict):
    """The idempotency key was used for another question."""

    code = "other_content"


class LimitExceeded(Refusal):
    """Too many at once or too fast; `retry_s` says when to come back."""

    code = "limit_exceeded"

    def __init__(self, text: str, retry_s: float) -> None:
        super().__init__(text)
        self.retry_s = retry_s


class Unauthenticated(Refusal):
    """The caller has no key, or one that is not ours; which of the two is no secret, whose key it might be is."""

    code = "unauthenticated"


class Unavailable(Refusal):
    """A venue (or another part we depend on) does not answer now."""

    code = "unavailable"

    def __init__(self, who: str, text: str, retry_s: float | None = None) -> None:
        super().__init__(text)
        self.who = who
        self.retry_s = retry_s


class TimedOut(Unavailable):
    """It was asked and did not answer in time."""

    code = "timed_out"


class OutOfReach(Unavailable):
    """The venue answers, but never serves this stretch (too old, delisted): asking again is pointless."""

    code = "out_of_reach"


class Crowded(Unavailable):
    """What we may ask of a venue is used up for now: it was not asked, and nothing is wrong with it."""

    code = "crowded"


class RateLimited(Unavailable):
    """A venue told us to slow down: nobody asks it again before `retry_s` is over. `banned` for 418 and its like."""

    code = "rate_limited"

    def __init__(self, who: str, text: str, retry_s: float, *, banned: bool = False) -> None:
        super().__init__(who, text, retry_s)
        self.banned = banned


class Forbidden(Refusal):
    """The key is good, but not for this; the text names the scope it lacks."""

    code = "forbidden"


class NotConfigured(Refusal):
    """A setting is missing; the text names it."""

    code = "not_configured"


class NoPrice(NotConfigured):
    """Nobody has said what a KAI costs."""

    code = "price_unavailable"


class NoStripe(NotConfigured):
    """Stripe's settings are missing."""

    code = "stripe_unavailable"


class FolderTaken(Refusal):
    """Another process has the data folder."""

    code = "folder_taken"


class Unreadable(Exception):
    """A venue's frame or answer that is not what the venue documents. Never fatal: counted, logged with its head."""

    def __init__(self, why: str, head: bytes = b"") -> None:
        super().__init__(why)
        self.why = why
        self.head = head[:200]
