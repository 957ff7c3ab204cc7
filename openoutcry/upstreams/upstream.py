"""What every provider of language models gives: pure translation, no I/O, no clock."""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from openoutcry.chat import ChatAnswer, ChatRequest


class Call(msgspec.Struct, frozen=True):
    """A POST to `path` below the provider's address. `headers` hold the key."""

    path: str
    headers: Mapping[str, str]
    body: bytes


class Upstream(Protocol):
    """One provider's API."""

    def encode(self, request: ChatRequest, key: str | None) -> Call:
        """What to send."""
        ...

    def decode(self, status: int, headers: Mapping[str, str], body: bytes) -> ChatAnswer:
        """What was answered. Raises RateLimited, Unavailable (the provider says no), Unreadable."""
        ...
