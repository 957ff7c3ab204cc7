"""OpenAI's chat completions, which vLLM, SGLang, Ollama, llama.cpp, LM Studio and OpenRouter speak as well.

https://platform.openai.com/docs/api-reference/chat

    POST /chat/completions     Authorization: Bearer ...
    {"model": "m", "messages": [{"role": "user", "content": "..."}], "max_tokens": 4000, "temperature": 0.2}

    {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m-2024",
     "choices": [{"index": 0, "message": {"role": "assistant", "content": "..."}, "finish_reason": "stop"}],
     "usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}}

    {"error": {"message": "...", "type": "invalid_request_error", "param": null, "code": "model_not_found"}}

Models that think first take `max_completion_tokens`, and no temperature. Some servers send their thoughts at the head of
the content, between <think> and </think>.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from openoutcry.chat import ChatAnswer, ChatRequest, Usage
from openoutcry.errors import RateLimited, Unavailable, Unreadable
from openoutcry.upstreams.upstream import Call

WHO = "model"
MODEL_LENGTH_MAX = 200
TOKENS_MAX = 2**53
# How long a provider is left alone that is busy and does not say for how long; longer than the latter is not believed.
RETRY_S = 5.0
RETRY_S_MAX = 86_400.0
# Codes that may be told on. What else stands in an error is the provider's text, which may quote the key.
CODES = frozenset({
    "billing_hard_limit_reached", "content_filter", "content_policy_violation", "context_length_exceeded",
    "insufficient_quota", "invalid_api_key", "invalid_request_error", "model_not_found", "rate_limit_exceeded",
    "server_error", "string_above_max_length", "unsupported_parameter", "unsupported_value",
})  # fmt: skip


class OpenAi:
    """The API of OpenAI and of all that copy it."""

    def encode(self, request: ChatRequest, key: str | None) -> Call:
        """What to send."""
        body: dict[str, Any] = {
            "model": request.model,
            "messages": [{"role": message.role, "content": message.text} for message in request.messages],
        }
        if request.reasoning:
            body["max_completion_tokens"] = request.output_tokens_max
        else:
            body["max_tokens"] = request.output_tokens_max
            if request.temperature is not None:
                body["temperature"] = request.temperature
        headers = {"content-type": "application/json", "accept": "application/json"}
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        return Call("/chat/completions", headers, msgspec.json.encode(body))

    def decode(self, status: int, headers: Mapping[str, str], body: bytes) -> ChatAnswer:
        """What was answered. Raises RateLimited, Unavailable (the provider says no), Unreadable."""
        if status != 200:
            raise _refusal(status, headers, body)
        answer = _read(body)
        if answer.error is not None:
            # Some gateways send their errors with a good status.
            raise Unavailable(WHO, f"the language model failed{_named(answer.error)}")
        if not answer.choices:
            raise Unreadable("an answer without a choice", body)
        choice = answer.choices[0]
        text = _spoken(_text(choice.message.content, body)).strip()
        if not text:
            if choice.finish_reason == "length":
                raise Unavailable(WHO, "the language model used up its tokens before it said anything")
            if choice.message.refusal or choice.finish_reason == "content_filter":
                raise Unavailable(WHO, "the language model refused to answer")
            raise Unreadable("an answer without a word", body)
        return ChatAnswer(
            text=text,
            model=answer.model[:MODEL_LENGTH_MAX],
            cut=choice.finish_reason == "length",
            usage=_usage(answer.usage),
        )


class _Message(msgspec.Struct, frozen=True):
    content: Any = None
    refusal: Any = None


class _Choice(msgspec.Struct, frozen=True):
    message: _Message
    finish_reason: str | None = None


class _Answer(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    model: str = ""
    usage: Any = None
    error: Any = None


_ANSWER = msgspec.json.Decoder(_Answer)


def _read(body: bytes) -> _Answer:
    try:
        return _ANSWER.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as e:
        raise Unreadable(f"not a chat completion: {type(e).__name__}", body) from e


def _text(content: Any, body: bytes) -> str:
    if content is None:
        return ""
    if isinstance(content, list):
        # Parts, as requests have them: some servers answer in kind.
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(part for part in parts if isinstance(part, str))
    if not isinstance(content, str):
        raise Unreadable("content that is no text", body)
    return content


def _spoken(text: str) -> str:
    """Without the thoughts before it. Where they never end, nothing was said."""
    stripped = text.lstrip()
    if not stripped.startswith("<think>"):
        return text
    return stripped.partition("</think>")[2]


def _usage(told: Any) -> Usage | None:
    if not isinstance(told, dict):
        return None
    tokens_in, tokens_out = _count(told.get("prompt_tokens")), _count(told.get("completion_tokens"))
    # What cannot be a count was not told; the answer itself is good.
    return None if tokens_in is None or tokens_out is None else Usage(tokens_in, tokens_out)


def _count(told: Any) -> int | None:
    return told if type(told) is int and 0 <= told <= TOKENS_MAX else None


def _refusal(status: int, headers: Mapping[str, str], body: bytes) -> Unavailable:
    try:
        error = _read(body).error
    except Unreadable:
        error = None  # a proxy's page, as often as not: the status says enough
    named = _named(error)
    retry_s = _retry_s(headers)
    if status == 429:
        return RateLimited(WHO, f"the language model asks for patience{named}", RETRY_S if retry_s is None else retry_s)
    if status >= 500 or status == 408:
        return Unavailable(WHO, f"the language model failed with status {status}{named}", retry_s)
    if status in {401, 403}:
        return Unavailable(WHO, f"the language model does not take our key (status {status}){named}")
    return Unavailable(WHO, f"the language model refused the request with status {status}{named}")


def _named(error: Any) -> str:
    if not isinstance(error, dict):
        return ""
    code = next(
        (each for each in (error.get("code"), error.get("type")) if isinstance(each, str) and each in CODES), ""
    )
    return f": {code}" if code else ""


def _retry_s(headers: Mapping[str, str]) -> float | None:
    told = headers.get("retry-after", "")[:20]
    if not told.isascii() or not told.replace(".", "", 1).isdecimal():
        return None
    return min(float(told), RETRY_S_MAX)
