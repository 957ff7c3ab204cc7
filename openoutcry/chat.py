"""What a language model is asked and what it answers, whoever it is."""

from typing import Literal

import msgspec


class ChatMessage(msgspec.Struct, frozen=True):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    text: str


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation to go on with, in at most `output_tokens_max`. `temperature` None: the model's own.

    `reasoning`: the model is one that thinks first, which is asked in another way.
    """

    model: str
    messages: tuple[ChatMessage, ...]
    output_tokens_max: int
    temperature: float | None = None
    reasoning: bool = False


class Usage(msgspec.Struct, frozen=True):
    """Tokens in and out of one call."""

    tokens_in: int
    tokens_out: int


class ChatAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the model said, without its thoughts. `usage` None: it was not told, which is not zero."""

    text: str
    model: str
    cut: bool = False  # it had more to say than it was allowed
    usage: Usage | None = None
