"""One series of an answer."""

import msgspec

from openoutcry.api.kiyotaka.names import Identity, Sort
from openoutcry.instrument import Instrument
from openoutcry.market.series import SeriesKey


class Piece(msgspec.Struct, frozen=True):
    """One series of an answer: our series behind it, its identity, and that identity as it is sent."""

    sort: Sort
    instrument: Instrument
    key: SeriesKey
    identity: Identity
    head: bytes
