"""What a language model is asked and what it answers, whoever it is."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec


class ChatMessage(msgspec.Struct, frozen=True):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    text: str


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation to go on with, in at most `output_tokens_max`. `temperature` None: the model's own.

    `reasoning`: the model is one that thinks first, which is asked in another way. `json`: the answer is to be a JSON object.
    """

    model: str
    messages: tuple[ChatMessage, ...]
    output_tokens_max: int
    temperature: float | None = None
    reasoning: bool = False
    json: bool = False


class Usage(msgspec.Struct, frozen=True):
    """Tokens in and out of one call; of those, the ones that were thought (out) and remembered (in), where that was told."""

    tokens_in: int
    tokens_out: int
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None


class ChatAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the model said, without its thoughts. `usage` None: it was not told, which is not zero."""

    text: str
    model: str
    cut: bool = False  # it had more to say than it was allowed
    usage: Usage | None = None


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """What is relayed to a model: messages and fields as OpenAI's API has them, checked at the edge and passed on as they are.

    `fields` holds neither the model, the messages, the bound on tokens nor what says whether it streams or thinks: those
    are said here, and each upstream is told in its own way. `thinks`: the model is to think first.
    """

    messages: tuple[Mapping[str, Any], ...]
    output_tokens_max: int
    thinks: bool
    fields: Mapping[str, Any] = {}


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What a model said next. `tool_calls` are pieces, each with its index, as OpenAI's stream has them; `logprobs` too.

    `finish` (stop, length, tool_calls, content_filter) comes once, after all that was said; `usage` with it, after it, or
    (from those that count as they go) with any of them: the last one counts.
    """

    text: str = ""
    thought: str = ""
    refusal: str = ""
    tool_calls: Sequence[Any] = ()
    logprobs: Any = None
    finish: str | None = None
    usage: Usage | None = None


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer. `text` None: it said nothing (it calls tools). `upstream_id`: what the upstream calls it, for its support."""

    text: str | None
    finish: str
    thought: str = ""
    refusal: str = ""
    tool_calls: Sequence[Any] = ()
    logprobs: Any = None
    usage: Usage | None = None
    upstream_id: str = ""
