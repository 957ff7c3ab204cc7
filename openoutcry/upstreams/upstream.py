"""What every provider of language models gives: pure translation, no I/O, no clock."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol

import msgspec

from openoutcry.chat import ChatAnswer, ChatRequest, Conversation, Delta, Said
from openoutcry.errors import Refusal

Reasoning = Literal[
    "enable_thinking", "reasoning_effort", "think", "reasoning_enabled", "thinking_type", "no_think", "none"
]


class Call(msgspec.Struct, frozen=True):
    """A POST to `path` below the provider's address. `headers` hold the key."""

    path: str
    headers: Mapping[str, str]
    body: bytes


class Manner(msgspec.Struct, frozen=True, kw_only=True):
    """How one upstream wants to be asked: its name of the model, how it is told to think, and what else it is sent.

    `usage_stats`: it counts tokens in every chunk when asked.
    """

    model: str
    reasoning: Reasoning = "none"
    usage_stats: bool = False
    extra: Mapping[str, Any] = {}


class Reader(Protocol):
    """A streamed answer: bytes in, what was said out, the same however the bytes are cut."""

    over: bool  # the upstream said that there is no more

    def feed(self, chunk: bytes) -> Iterator[Delta]:
        """What is known now. Raises Unreadable; a refusal where the upstream tells of one."""
        ...

    def end(self) -> Iterator[Delta]:
        """What was held back. Raises as `feed` does, and Unavailable where the answer has no end."""
        ...


class Upstream(Protocol):
    """One provider's API."""

    def encode(self, request: ChatRequest, key: str | None) -> Call:
        """What to send."""
        ...

    def decode(self, status: int, headers: Mapping[str, str], body: bytes) -> ChatAnswer:
        """What was answered. Raises RateLimited, Unavailable (the provider says no), Unreadable."""
        ...

    def ask(self, conversation: Conversation, manner: Manner, key: str | None, *, stream: bool) -> Call:
        """What to send to go on with a conversation. Raises Invalid."""
        ...

    def said(self, status: int, headers: Mapping[str, str], body: bytes) -> Said:
        """A whole answer. Raises what `refusal` gives, and Unreadable."""
        ...

    def reader(self) -> Reader:
        """For an answer that is streamed with status 200."""
        ...

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> Refusal:
        """Why not: Invalid where it is the caller's fault, else RateLimited or Unavailable. It quotes nothing."""
        ...
