"""Times as text, where venues agree: RFC 3339, in UTC."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec

from openoutcry.events import NS

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# What a typed read takes: a time that says its zone. Digits below a microsecond are rounded away.
Stamp = Annotated[datetime, msgspec.Meta(tz=True)]


def ns_of(stamp: datetime) -> int:
    """Nanoseconds of a stamp. Raises ValueError for one before 1970, which no store could tell from none."""
    since = (stamp - EPOCH) // MICROSECOND
    if since <= 0:
        raise ValueError("a time before 1970")
    return since * 1_000


def stamp_of(at_ns: int) -> str:
    """Whole seconds as venues read them: 2022-03-18T05:55:37Z."""
    return (EPOCH + timedelta(seconds=at_ns // NS)).isoformat().replace("+00:00", "Z")
