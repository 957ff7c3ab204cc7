"""One series of an answer."""

import msgspec

from openoutcry.api.kiyotaka.names import Identity, Sort
from openoutcry.instrument import Instrument
from openoutcry.market.series import SeriesKey


class Piece(msgspec.Struct, frozen=True):
    """One series of an answer: our series behind it, its identity, and that identity as it is sent.

    `outright`: the question names it, and does not mean it among others: then a venue is asked for trades as well.
    """

    sort: Sort
    instrument: Instrument
    key: SeriesKey
    identity: Identity
    head: bytes
    outright: bool = False
