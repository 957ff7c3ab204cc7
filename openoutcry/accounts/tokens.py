"""Login tokens: JWT by HS256 that say whose they are, until when, and of which password.

    {"iss": "openoutcry", "aud": "openoutcry", "sub": account id, "iat": s, "exp": s, "jti": hex, "ver": 1}

Only HS256 is read, with our own secret. `ver` is the account's version, which grows with its password.
"""

import secrets
from collections.abc import Callable

import jwt
import msgspec

from openoutcry.clock import NS, Clock
from openoutcry.errors import Unauthenticated

ALGORITHM = "HS256"
ISSUER = AUDIENCE = "openoutcry"
CLAIMS = ("iss", "aud", "sub", "iat", "exp", "jti", "ver")
TEXT_LENGTH_MAX = 4_096
ID_BYTES = 16
# How far the clocks of two machines that issue tokens may lie apart.
APART_S_MAX = 60


class Claim(msgspec.Struct, frozen=True):
    """What a token says, and we believe: whose it is, as of which version of the account."""

    account: str
    version: int


class _Claims(msgspec.Struct, frozen=True):
    sub: str
    iat: int
    exp: int
    jti: str
    ver: int


class Tokens:
    """Issues tokens and reads them. `secret`: 32 bytes or more."""

    def __init__(
        self,
        secret: bytes,
        clock: Clock,
        good_s: float = 86_400.0,
        *,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        assert len(secret) >= 32
        self._secret = secret
        self._clock = clock
        self._good_s = good_s
        self._random = random

    def issue(self, account: str, version: int) -> str:
        """A token for whoever logged in."""
        now_ns = self._clock.now_ns()
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": account,
            "iat": now_ns // NS,
            "exp": -(-(now_ns + round(self._good_s * NS)) // NS),
            "jti": self._random(ID_BYTES).hex(),
            "ver": version,
        }
        return jwt.encode(claims, self._secret, ALGORITHM)

    def read(self, text: str) -> Claim:
        """Raises Unauthenticated: not ours, not whole, or no longer good; which of them is not said."""
        now_s = self._clock.now_ns() / NS
        try:
            claims = msgspec.convert(self._decoded(text), _Claims)
        # Its head is read before its signature is, and may be nested as deep as it is long: older PyJWT lets that through.
        except (jwt.InvalidTokenError, msgspec.ValidationError, ValueError, RecursionError) as e:
            raise _refusal() from e
        if claims.exp <= now_s or claims.iat > now_s + APART_S_MAX:
            raise _refusal()
        return Claim(claims.sub, claims.ver)

    def _decoded(self, text: str) -> object:
        if len(text) > TEXT_LENGTH_MAX:
            raise _refusal()
        return jwt.decode(
            text,
            self._secret,
            algorithms=[ALGORITHM],
            audience=AUDIENCE,
            issuer=ISSUER,
            # The library asks the machine's clock: times are compared here.
            options={
                "require": list(CLAIMS),
                "strict_aud": True,
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
            },
        )


def _refusal() -> Unauthenticated:
    return Unauthenticated("the login token is not good, or no longer")
