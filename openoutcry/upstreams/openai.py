"""OpenAI's chat completions, which vLLM, SGLang, Ollama, llama.cpp, LM Studio and OpenRouter speak as well.

https://platform.openai.com/docs/api-reference/chat

    POST /chat/completions     Authorization: Bearer ...
    {"model": "m", "messages": [{"role": "user", "content": "..."}], "max_tokens": 4000, "temperature": 0.2}

    {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m-2024",
     "choices": [{"index": 0, "message": {"role": "assistant", "content": "..."}, "finish_reason": "stop"}],
     "usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}}

    {"error": {"message": "...", "type": "invalid_request_error", "param": null, "code": "model_not_found"}}

Models that think first take `max_completion_tokens`, and no temperature. Some servers send their thoughts at the head of
the content, between <think> and </think>; others beside it, as `reasoning_content` or `reasoning`.

Streamed, with "stream": true and "stream_options": {"include_usage": true}:

    data: {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "Up"},
           "finish_reason": null}], "usage": null}
    data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": null}
    data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21,
           "completion_tokens_details": {"reasoning_tokens": 8}, "prompt_tokens_details": {"cached_tokens": 0}}}
    data: [DONE]
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from openoutcry.chat import ChatAnswer, ChatRequest, Conversation, Delta, Said, Usage
from openoutcry.errors import ContextTooLong, Invalid, RateLimited, Refusal, Unavailable, Unreadable
from openoutcry.upstreams.sse import Events
from openoutcry.upstreams.thoughts import Thoughts
from openoutcry.upstreams.upstream import Call, Manner, Reader

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
# Codes, and words in texts of those that have no code, for a conversation that is longer than the model takes.
TOO_LONG = frozenset({"context_length_exceeded", "exceed_context_size_error", "string_above_max_length"})
TOO_LONG_WORDS = ("context length", "context size", "context window", "maximum context", "prompt is too long")
# Codes of refusals with 400 that are about us, not about the question.
OURS = frozenset({"billing_hard_limit_reached", "insufficient_quota", "invalid_api_key", "model_not_found"})
# Fields of a question that may be named when it is refused.
FIELDS = frozenset({
    "frequency_penalty", "logit_bias", "logprobs", "max_completion_tokens", "max_tokens", "messages", "parallel_tool_calls",
    "presence_penalty", "reasoning_effort", "response_format", "seed", "stop", "temperature", "tool_choice", "tools",
    "top_logprobs", "top_p", "user",
})  # fmt: skip
FINISHES: Mapping[str, str] = {
    "stop": "stop", "length": "length", "tool_calls": "tool_calls", "content_filter": "content_filter",
    "eos": "stop", "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "function_call": "tool_calls",
}  # fmt: skip
# Finishes of answers that failed.
BROKEN = frozenset({"abort", "cancelled", "error"})
TOOL_CALLS_MAX = 256
ID_LENGTH_MAX = 200
DONE = b"[DONE]"


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
        if request.json:
            body["response_format"] = {"type": "json_object"}
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

    def ask(self, conversation: Conversation, manner: Manner, key: str | None, *, stream: bool) -> Call:
        """What to send to go on with a conversation. Raises Invalid."""
        fields = dict(conversation.fields)
        thinking = _thinking(manner.reasoning, conversation, fields)
        openai = manner.reasoning == "reasoning_effort"
        body = _merged(_merged(fields, manner.extra), thinking)
        body["model"] = manner.model
        body["messages"] = _messages(conversation, manner, developers=openai)
        body["max_completion_tokens" if openai else "max_tokens"] = conversation.output_tokens_max
        body["stream"] = stream
        if stream:
            body["stream_options"] = {"include_usage": True}
            if manner.usage_stats:
                body["stream_options"]["continuous_usage_stats"] = True
        else:
            body.pop("stream_options", None)
        headers = {
            "content-type": "application/json",
            "accept": "text/event-stream, application/json" if stream else "application/json",
        }
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        try:
            return Call("/chat/completions", headers, msgspec.json.encode(body))
        except UnicodeEncodeError as e:
            raise Invalid("a text holds half a character (a lone surrogate)") from e

    def said(self, status: int, headers: Mapping[str, str], body: bytes) -> Said:
        """A whole answer. Raises what `refusal` gives, and Unreadable."""
        if status != 200:
            raise self.refusal(status, headers, body)
        answer = _read(body)
        if answer.error:
            raise _refused(_status(answer.error), headers, answer.error)
        if not answer.choices:
            raise Unreadable("an answer without a choice", body)
        choice = answer.choices[0]
        message = choice.message
        thoughts = Thoughts()
        parts = [thoughts.feed(_text(message.content, body)), thoughts.end()]
        calls = _calls(message.tool_calls, body, whole=True)
        text = "".join(said for said, _ in parts)
        return Said(
            text=None if message.content is None and (calls or message.refusal) else text,
            finish=_finish(choice.finish_reason) or ("tool_calls" if calls else "stop"),
            thought=_beside(message) + "".join(thought for _, thought in parts),
            refusal=_string(message.refusal),
            tool_calls=calls,
            logprobs=choice.logprobs if isinstance(choice.logprobs, dict) else None,
            usage=_usage(answer.usage),
            upstream_id=_string(answer.id)[:ID_LENGTH_MAX],
        )

    def reader(self) -> Reader:
        """For an answer that is streamed with status 200."""
        return _Reader()

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> Refusal:
        """Why not: Invalid where it is the caller's fault, else RateLimited or Unavailable. It quotes nothing."""
        try:
            told = _TOLD.decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            told = None  # a proxy's page, as often as not: the status says enough
        error = told
        if isinstance(told, dict) and told.get("error"):
            error = told["error"]
        return _refused(status, headers, error)


class _Reader:
    def __init__(self) -> None:
        self.over = False
        self._events = Events()
        self._thoughts = Thoughts()
        self._called = False
        self._finished = False

    def feed(self, chunk: bytes) -> Iterator[Delta]:
        if not self.over:
            yield from self._deltas(self._events.feed(chunk))

    def end(self) -> Iterator[Delta]:
        if not self.over:
            yield from self._deltas(self._events.end())
        if not self._finished:
            raise Unavailable(WHO, "the language model's answer broke off")
        self.over = True

    def _deltas(self, events: Iterator[bytes]) -> Iterator[Delta]:
        for data in events:
            delta = self._done() if data.strip() == DONE else self._delta(data)
            if delta is not None:
                yield delta
            if self.over:
                return

    def _done(self) -> Delta | None:
        self.over = True
        if self._finished:
            return None
        # Some servers give no reason. It did end, and says so.
        self._finished = True
        text, thought = self._thoughts.end()
        return Delta(text=text, thought=thought, finish="tool_calls" if self._called else "stop")

    def _delta(self, data: bytes) -> Delta | None:
        try:
            chunk = _CHUNK.decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError) as e:
            raise Unreadable(f"not a piece of a chat completion: {type(e).__name__}", data) from e
        if chunk.error:
            raise _refused(_status(chunk.error), {}, chunk.error)
        usage = None if chunk.usage is None else _usage(chunk.usage)
        part = chunk.choices[0] if chunk.choices else None
        if part is None or part.index != 0 or self._finished:
            # What is said after the end belongs to nothing; what was counted does.
            return None if usage is None else Delta(usage=usage)
        text = thought = refusal = ""
        calls: Sequence[Any] = ()
        piece = part.delta
        if piece is not None:
            thought = _beside(piece)
            if piece.content:
                text, inner = self._thoughts.feed(_text(piece.content, data))
                thought += inner
            if piece.tool_calls:
                calls = _calls(piece.tool_calls, data, whole=False)
                self._called = True
            if piece.refusal:
                refusal = _string(piece.refusal)
        finish = _finish(part.finish_reason)
        if finish is not None:
            self._finished = True
            rest, inner = self._thoughts.end()
            text, thought = text + rest, thought + inner
        logprobs = part.logprobs if isinstance(part.logprobs, dict) else None
        if not (text or thought or refusal or calls or finish or logprobs or usage):
            return None
        return Delta(
            text=text, thought=thought, refusal=refusal, tool_calls=calls, logprobs=logprobs, finish=finish, usage=usage
        )


class _Message(msgspec.Struct, frozen=True):
    content: Any = None
    refusal: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: Any = None


class _Choice(msgspec.Struct, frozen=True):
    message: _Message
    finish_reason: str | None = None
    logprobs: Any = None


class _Answer(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    model: str = ""
    usage: Any = None
    error: Any = None
    id: Any = None


class _Part(msgspec.Struct, frozen=True):
    delta: _Message | None = None
    finish_reason: str | None = None
    index: int = 0
    logprobs: Any = None


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Part] | None = None
    usage: Any = None
    error: Any = None


_ANSWER = msgspec.json.Decoder(_Answer)
_CHUNK = msgspec.json.Decoder(_Chunk)
_TOLD = msgspec.json.Decoder()


def _thinking(reasoning: str, conversation: Conversation, fields: dict[str, Any]) -> dict[str, Any]:
    """What says whether to think first. OpenAI's models that do take no temperature: it is taken out of the fields."""
    thinks = conversation.thinks
    if reasoning == "enable_thinking":
        return {"chat_template_kwargs": {"enable_thinking": thinks}}
    if reasoning == "reasoning_effort":
        if not thinks:
            return {"reasoning_effort": "none"}
        fields.pop("temperature", None)
        fields.pop("top_p", None)
        asked = fields.get("reasoning_effort")
        return {"reasoning_effort": asked if isinstance(asked, str) and asked != "none" else "medium"}
    if reasoning == "think":
        return {"think": thinks}
    if reasoning == "reasoning_enabled":
        return {"reasoning": {"enabled": thinks}}
    if reasoning == "thinking_type":
        return {"thinking": {"type": "enabled" if thinks else "disabled"}}
    return {}


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Both; where both have a name, the other's, or what is in both where those are objects."""
    made = dict(one)
    for name, value in other.items():
        there = made.get(name)
        made[name] = _merged(there, value) if isinstance(there, Mapping) and isinstance(value, Mapping) else value
    return made


def _messages(conversation: Conversation, manner: Manner, *, developers: bool) -> list[Mapping[str, Any]]:
    messages = [
        # Only OpenAI's models know developers; to others the word is nothing, or an error.
        {**each, "role": "system"} if each.get("role") == "developer" and not developers else each
        for each in conversation.messages
    ]
    if manner.reasoning != "no_think" or conversation.thinks:
        return messages
    at = next((at for at in range(len(messages) - 1, -1, -1) if messages[at].get("role") == "user"), None)
    if at is not None:
        content = messages[at].get("content")
        if isinstance(content, str):
            messages[at] = {**messages[at], "content": f"{content} /no_think"}
        elif isinstance(content, Sequence):
            messages[at] = {**messages[at], "content": [*content, {"type": "text", "text": "/no_think"}]}
    return messages


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


def _beside(message: _Message) -> str:
    """What was thought, where it stands beside the content. Some servers say it twice."""
    return _string(message.reasoning_content) or _string(message.reasoning)


def _string(told: Any) -> str:
    return told if isinstance(told, str) else ""


def _calls(told: Any, body: bytes, *, whole: bool) -> Sequence[Mapping[str, Any]]:
    """Calls of tools, as OpenAI spells them: whole ones, or pieces that each name the call they belong to."""
    if told is None:
        return ()
    if not isinstance(told, list) or len(told) > TOOL_CALLS_MAX:
        raise Unreadable("tool calls that are no list, or too many", body)
    calls = []
    for at, each in enumerate(told):
        if not isinstance(each, dict) or not isinstance(each.get("function"), dict):
            raise Unreadable("a tool call without a function", body)
        function = each["function"]
        arguments = function.get("arguments")
        if isinstance(arguments, dict):
            arguments = msgspec.json.encode(arguments).decode()
        call: dict[str, Any] = {} if whole else {"index": _place(each.get("index"), at)}
        if whole or isinstance(each.get("id"), str):
            call["id"] = _string(each.get("id"))[:ID_LENGTH_MAX] or f"call_{at}"
        if whole or "type" in each or "id" in call:
            call["type"] = "function"
        call["function"] = {}
        if whole or isinstance(function.get("name"), str):
            call["function"]["name"] = _string(function.get("name"))
        if whole or isinstance(arguments, str):
            call["function"]["arguments"] = _string(arguments)
        calls.append(call)
    return calls


def _place(told: Any, at: int) -> int:
    return told if type(told) is int and 0 <= told < TOOL_CALLS_MAX else at


def _finish(told: str | None) -> str | None:
    """Raises Unavailable."""
    if not told:
        return None
    if told in BROKEN:
        raise Unavailable(WHO, "the language model's answer broke off")
    # A reason that nobody knows is an end all the same.
    return FINISHES.get(told, "stop")


def _usage(told: Any) -> Usage | None:
    if not isinstance(told, dict):
        return None
    tokens_in, tokens_out = _count(told.get("prompt_tokens")), _count(told.get("completion_tokens"))
    # What cannot be a count was not told; the answer itself is good.
    if tokens_in is None or tokens_out is None:
        return None
    thought = _count(_inner(told.get("completion_tokens_details"), "reasoning_tokens"))
    remembered = _count(_inner(told.get("prompt_tokens_details"), "cached_tokens"))
    if remembered is None:
        remembered = _count(told.get("prompt_cache_hit_tokens"))  # DeepSeek
    return Usage(
        tokens_in,
        tokens_out,
        reasoning_tokens=None if thought is None or thought > tokens_out else thought,
        cached_tokens=None if remembered is None or remembered > tokens_in else remembered,
    )


def _inner(told: Any, name: str) -> Any:
    return told.get(name) if isinstance(told, dict) else None


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


def _refused(status: int, headers: Mapping[str, str], error: Any) -> Refusal:
    """Our words for a provider's no, by its status and what is known of its codes."""
    named = _named(error)
    retry_s = _retry_s(headers)
    if status == 429:
        return RateLimited(WHO, f"the language model asks for patience{named}", RETRY_S if retry_s is None else retry_s)
    if status == 408 or status >= 500 or status < 400:
        return Unavailable(WHO, f"the language model failed with status {status}{named}", retry_s)
    if status == 413 or _too_long(error):
        return ContextTooLong("the conversation, and the answer asked for, are longer than the language model takes")
    code = named.removeprefix(": ")
    if status not in {400, 422} or code in OURS:
        return Unavailable(WHO, f"the language model does not serve us (status {status}){named}")
    if code in {"content_filter", "content_policy_violation"}:
        return Invalid(f"the language model's provider does not take this content{named}")
    param = _string(_inner(error, "param")).partition(".")[0].partition("[")[0]
    about = f" (`{param}`)" if param in FIELDS else ""
    return Invalid(f"the language model does not take this request{named}{about}")


def _status(error: Any) -> int:
    """What an error that came with a good status would have come with."""
    code = _inner(error, "code")
    if type(code) is int and 400 <= code <= 599:
        return code
    return 400 if _too_long(error) else 500


def _too_long(error: Any) -> bool:
    if not isinstance(error, dict):
        return False
    if any(isinstance(code, str) and code in TOO_LONG for code in (error.get("code"), error.get("type"))):
        return True
    message = _string(error.get("message"))[:1_000].lower()
    return any(words in message for words in TOO_LONG_WORDS)


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
