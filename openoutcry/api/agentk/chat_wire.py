"""What a language model is asked over HTTP and how it answers: OpenAI's shapes, and the simple one beside them.

    {"model":"kai-smart","messages":[{"role":"user","content":"hi"}],"max_tokens":20,"reasoning":false}
    {"id":"chatcmpl-1","object":"chat.completion","created":1763553600,"model":"kai-smart","choices":[{"index":0,
     "message":{"role":"assistant","content":"Hello.","refusal":null},"logprobs":null,"finish_reason":"stop"}],
     "usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}

    data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1763553600,"model":"kai-smart",
           "choices":[{"index":0,"delta":{"content":"Hello."},"logprobs":null,"finish_reason":null}]}
    data: [DONE]

`reasoning` and `reasoning_content` are not OpenAI's. Unknown fields are ignored, as OpenAI does: its library sends new ones.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.responses import Response

from openoutcry.api.agentk import wire
from openoutcry.api.agentk.wire import Wrong
from openoutcry.chat import Delta, Usage
from openoutcry.errors import ContextTooLong, Refusal
from openoutcry.llm.models import Ask, Completed, Listed

COMPLETIONS = "/v1/chat/completions"
CHAT = "/v1/ai/chat"
MESSAGES_MAX = 2_048
PARTS_MAX = 256
TOOLS_MAX = 128
CALLS_MAX = 128
STOPS_MAX = 4
STOP_LENGTH_MAX = 1_000
OUTPUT_TOKENS_MAX = 8_192
MESSAGE_LENGTH_MAX = 10_000
NAME_LENGTH_MAX = 256
DEPTH_MAX = 64  # of what is passed on unread: the parameters of a tool
MICROS_HEADER = "x-kai-cost-micros"
REPLAYED_HEADER = "idempotent-replayed"

# A model's server fetches what it is pointed at: nothing of its own machine, and nothing but the web.
_LINKS = ("http://", "https://", "data:")
_KEY = re.compile(r"[!-~]{1,255}")
_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
_WHERE = re.compile(r"(?P<why>.*?)(?: - at `(?P<path>.*)`)?", re.DOTALL)
_LACKS = re.compile(r"Object missing required field `(.*)`")
# A client that splits text into lines as Python does would cut an event in two here.
_LINE_ENDS = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))

_T = TypeVar("_T")

Name = Annotated[str, Meta(min_length=1, max_length=NAME_LENGTH_MAX)]
ToolName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]
OutputTokens = Annotated[int, Meta(ge=1, le=OUTPUT_TOKENS_MAX)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Stop = Annotated[str, Meta(max_length=STOP_LENGTH_MAX)]
Reasoning = Annotated[bool | None, Meta(description="Thinks first or not, whatever the model does of itself")]
Link = Annotated[str, Meta(description="http:, https: or data:")]


# What is asked


class ChatText(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="text"):
    """A part that is text."""

    text: str


class ChatImageLink(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where an image is, or the image."""

    url: Link
    detail: Literal["auto", "low", "high", "original"] | None = None


class ChatImage(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="image_url"):
    """A part that is an image."""

    image_url: ChatImageLink


class ChatSound(msgspec.Struct, frozen=True):
    """Base64, and of what."""

    data: str
    format: Name


class ChatAudio(msgspec.Struct, frozen=True, tag_field="type", tag="input_audio"):
    """A part that is sound."""

    input_audio: ChatSound


class ChatFileData(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file, or the upstream's id of one."""

    file_data: str | None = None
    file_id: Name | None = None
    filename: Name | None = None


class ChatFile(msgspec.Struct, frozen=True, tag_field="type", tag="file"):
    """A part that is a file."""

    file: ChatFileData


class ChatRefusal(msgspec.Struct, frozen=True, tag_field="type", tag="refusal"):
    """A part of an earlier answer in which the model said no."""

    refusal: str


class ChatCalled(msgspec.Struct, frozen=True):
    """Which function was called, and with what (JSON, as the model wrote it)."""

    name: Name
    arguments: str


class ChatToolCall(msgspec.Struct, frozen=True):
    """A call that the model made in an earlier answer."""

    id: Name
    type: Literal["function"]
    function: ChatCalled


Part = ChatText | ChatImage | ChatAudio | ChatFile | ChatRefusal


class ChatTurn(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn. `content` may be null only where there are `tool_calls`."""

    role: Literal["system", "user", "assistant", "tool", "developer"]
    content: str | Annotated[list[Part], Meta(min_length=1, max_length=PARTS_MAX)] | None = None
    name: Name | None = None
    tool_calls: Annotated[list[ChatToolCall], Meta(max_length=CALLS_MAX)] | None = None
    tool_call_id: Name | None = None
    reasoning_content: str | None = None


class ChatFunction(msgspec.Struct, frozen=True, omit_defaults=True):
    """A function that the model may call; `parameters` is a JSON Schema."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChatTool(msgspec.Struct, frozen=True):
    """A tool that the model may call."""

    type: Literal["function"]
    function: ChatFunction


class ChatToolName(msgspec.Struct, frozen=True):
    """The name of a function."""

    name: ToolName


class ChatToolChoice(msgspec.Struct, frozen=True):
    """The tool that must be called."""

    type: Literal["function"]
    function: ChatToolName


class ChatFormatSchema(msgspec.Struct, frozen=True, omit_defaults=True):
    """The JSON Schema that the answer follows."""

    name: ToolName
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class ChatFormatText(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """Any text."""


class ChatFormatObject(msgspec.Struct, frozen=True, tag_field="type", tag="json_object"):
    """A JSON object."""


class ChatFormatJson(msgspec.Struct, frozen=True, tag_field="type", tag="json_schema"):
    """JSON that follows a schema."""

    json_schema: ChatFormatSchema


class ChatStreamOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether usage comes in a chunk of its own."""

    include_usage: bool | None = None


class ChatCompletionRequest(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What is asked of a model. `model` null: the default alias. `max_completion_tokens` is `max_tokens` by its other name."""

    messages: Annotated[list[ChatTurn], Meta(min_length=1, max_length=MESSAGES_MAX)]
    model: str | None = None
    max_tokens: OutputTokens | None = None
    max_completion_tokens: OutputTokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    n: Annotated[int, Meta(ge=1, le=1)] | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=STOPS_MAX)] | None = None
    stream: bool | None = None
    stream_options: ChatStreamOptions | None = None
    reasoning: Reasoning = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    tools: Annotated[list[ChatTool], Meta(max_length=TOOLS_MAX)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChatToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ChatFormatText | ChatFormatObject | ChatFormatJson | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    user: Annotated[str, Meta(max_length=NAME_LENGTH_MAX)] | None = None


class ChatSimpleRequest(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One question to a model."""

    message: Annotated[str, Meta(min_length=1, max_length=MESSAGE_LENGTH_MAX)]
    model: str | None = None
    max_tokens: OutputTokens | None = None
    reasoning: Reasoning = None


# Passed on to the model as they are.
_PASSED = (
    *("temperature", "top_p", "stop", "reasoning_effort", "tools", "tool_choice", "parallel_tool_calls"),
    *("response_format", "seed", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "user"),
)
_completion_of = msgspec.json.Decoder(ChatCompletionRequest)
_simple_of = msgspec.json.Decoder(ChatSimpleRequest)
_canonical = msgspec.json.Encoder(order="sorted").encode


def completion_asked(content_type: str | None, body: bytes) -> ChatCompletionRequest:
    """The body of /v1/chat/completions. Raises Wrong."""
    asked = _read(_completion_of, content_type, body)
    for index, turn in enumerate(asked.messages):
        _check_turn(f"messages[{index}]", turn)
    _check_tools(asked)
    _check_rest(asked)
    return asked


def simple_asked(content_type: str | None, body: bytes) -> ChatSimpleRequest:
    """The body of /v1/ai/chat. Raises Wrong."""
    return _read(_simple_of, content_type, body)


def idempotency_key(values: Sequence[str]) -> str | None:
    """The header Idempotency-Key, given as often as it was sent. Raises Wrong."""
    if not values:
        return None
    if len(set(values)) > 1 or _KEY.fullmatch(values[0]) is None:
        raise Wrong("Idempotency-Key is 1 to 255 visible ASCII characters, once", rule="invalid_idempotency_key")
    return values[0]


def completion_ask(asked: ChatCompletionRequest, key: str | None) -> Ask:
    """The same as `Models` is asked."""
    said = {name: getattr(asked, name) for name in _PASSED}
    # An empty list says nothing too, and some upstreams refuse it.
    fields = {name: msgspec.to_builtins(told) for name, told in said.items() if told is not None and told != []}
    thinks, effort = asked.reasoning, asked.reasoning_effort
    if thinks is None and effort is not None:
        thinks = effort != "none"
    if not thinks or effort == "none":
        # How much is thought says nothing where it is said that nothing is, or that something is.
        fields.pop("reasoning_effort", None)
    if not asked.tools:
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            fields.pop(name, None)
    return Ask(
        endpoint=COMPLETIONS,
        model=asked.model,
        messages=tuple(_passed_turn(turn) for turn in asked.messages),
        fields=fields,
        output_tokens_max=asked.max_completion_tokens if asked.max_tokens is None else asked.max_tokens,
        thinks=thinks,
        idempotency_key=key,
        fingerprint=_fingerprint(COMPLETIONS, key, asked),
    )


def simple_ask(asked: ChatSimpleRequest, key: str | None) -> Ask:
    """The same as `Models` is asked."""
    return Ask(
        endpoint=CHAT,
        model=asked.model,
        messages=({"role": "user", "content": asked.message},),
        fields={},
        output_tokens_max=asked.max_tokens,
        thinks=asked.reasoning,
        idempotency_key=key,
        fingerprint=_fingerprint(CHAT, key, asked),
    )


def _read(decoder: msgspec.json.Decoder[_T], content_type: str | None, body: bytes) -> _T:
    charset = _charset(content_type)
    if charset is not None and charset not in _CHARSETS:
        raise Wrong("the body must be JSON in UTF-8")
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as e:
        raise _malformed(str(e)) from e
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise Wrong("the body is not JSON in UTF-8") from e
    except RecursionError as e:
        raise Wrong("the body is nested too deeply") from e


def _charset(content_type: str | None) -> str | None:
    for parameter in (content_type or "").split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip("\"'").lower()
    return None


def _malformed(said: str) -> Wrong:
    found = _WHERE.fullmatch(said)
    assert found is not None
    why, path = found["why"], (found["path"] or "$").removeprefix("$").removeprefix(".")
    lacks = _LACKS.fullmatch(why)
    if lacks is not None:
        path = f"{path}.{lacks[1]}" if path else lacks[1]
        return Wrong(f"{path} is missing", path, "missing_required_parameter")
    rule = "invalid_type" if ", got `" in why else "invalid_value"
    why = why[:1].lower() + why[1:].replace("`", "")
    return Wrong(f"{path or 'the body'}: {why}", path or None, rule)


def _check_turn(where: str, turn: ChatTurn) -> None:
    if turn.content is None and not turn.tool_calls:
        raise Wrong(f"{where}.content is missing", f"{where}.content", "missing_required_parameter")
    if turn.tool_calls and turn.role != "assistant":
        raise Wrong(f"{where}.tool_calls: only the assistant calls tools", f"{where}.tool_calls", "invalid_value")
    if turn.role == "tool" and turn.tool_call_id is None:
        raise Wrong(f"{where}.tool_call_id is missing", f"{where}.tool_call_id", "missing_required_parameter")
    if isinstance(turn.content, list):
        allowed = _PARTS_OF.get(turn.role, (ChatText,))
        for index, part in enumerate(turn.content):
            if not isinstance(part, allowed):
                path = f"{where}.content[{index}].type"
                raise Wrong(f"{path}: not in a message of the {turn.role}", path, "invalid_value")
            if isinstance(part, ChatImage) and not part.image_url.url.lower().startswith(_LINKS):
                path = f"{where}.content[{index}].image_url.url"
                raise Wrong(f"{path}: neither http: nor https: nor data:", path, "invalid_value")


_PARTS_OF: Mapping[str, tuple[type, ...]] = {
    "user": (ChatText, ChatImage, ChatAudio, ChatFile),
    "assistant": (ChatText, ChatRefusal),
}


def _check_tools(asked: ChatCompletionRequest) -> None:
    names = {tool.function.name for tool in asked.tools or ()}
    if asked.tool_choice not in {None, "none"} and not names:
        raise Wrong("tool_choice: there are no tools", "tool_choice", "invalid_value")
    if isinstance(asked.tool_choice, ChatToolChoice) and asked.tool_choice.function.name not in names:
        raise Wrong("tool_choice: there is no tool of that name", "tool_choice", "invalid_value")
    for index, tool in enumerate(asked.tools or ()):
        _check_depth(f"tools[{index}].function.parameters", tool.function.parameters)
    if isinstance(asked.response_format, ChatFormatJson):
        _check_depth("response_format.json_schema.schema", asked.response_format.json_schema.schema)


def _check_rest(asked: ChatCompletionRequest) -> None:
    if asked.max_tokens is not None and asked.max_completion_tokens not in {None, asked.max_tokens}:
        text = "max_completion_tokens: not what max_tokens says, which means the same"
        raise Wrong(text, "max_completion_tokens", "invalid_value")
    if asked.stream_options is not None and not asked.stream:
        raise Wrong("stream_options: only where stream is true", "stream_options", "invalid_value")
    if asked.top_logprobs is not None and not asked.logprobs:
        raise Wrong("top_logprobs: only where logprobs is true", "top_logprobs", "invalid_value")
    if asked.reasoning and asked.reasoning_effort == "none":
        raise Wrong("reasoning_effort: none, where reasoning is true", "reasoning_effort", "invalid_value")


def _check_depth(where: str, told: Any) -> None:
    level = [told]
    for _ in range(DEPTH_MAX):
        level = [
            below
            for each in level
            if isinstance(each, dict | list)
            for below in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise Wrong(f"{where}: nested too deeply", where, "invalid_value")


def _passed_turn(turn: ChatTurn) -> Mapping[str, Any]:
    passed = msgspec.to_builtins(turn)
    passed.setdefault("content", None)
    return passed  # type: ignore[no-any-return]


def _fingerprint(endpoint: str, key: str | None, asked: msgspec.Struct) -> bytes:
    return b"" if key is None else hashlib.sha256(endpoint.encode() + b"\n" + _canonical(asked)).digest()


# What is answered


class ChatOutputDetails(msgspec.Struct, frozen=True):
    """Of the tokens that were written, those that were thought."""

    reasoning_tokens: int


class ChatInputDetails(msgspec.Struct, frozen=True):
    """Of the tokens that were read, those that the model still knew."""

    cached_tokens: int


class ChatUsage(msgspec.Struct, frozen=True):
    """What is billed."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    completion_tokens_details: ChatOutputDetails | UnsetType = UNSET
    prompt_tokens_details: ChatInputDetails | UnsetType = UNSET


class ChatAnswerMessage(msgspec.Struct, frozen=True):
    """What the model said. `content` null: it only calls tools."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: Sequence[Any] | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True):
    """The one answer."""

    index: int
    message: ChatAnswerMessage
    logprobs: Any
    finish_reason: str


class ChatCompletion(msgspec.Struct, frozen=True):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: tuple[ChatChoice, ...]
    usage: ChatUsage


class ChatCost(msgspec.Struct, frozen=True):
    """How the price came about: total_usd = llm_usd · fee_multiplier, total_micros of it at kai_price_usd."""

    llm_usd: Decimal
    fee_multiplier: Decimal
    total_usd: Decimal
    total_micros: int
    kai_price_usd: Decimal


class ChatSimpleAnswer(msgspec.Struct, frozen=True):
    """The answer to one question, and what it cost."""

    answer: str
    tokens_in: int
    tokens_out: int
    latency_ms: int
    cost: ChatCost


class ChatModel(msgspec.Struct, frozen=True):
    """A model that may be asked."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    description: str
    default_reasoning: bool | None
    upstream_model: str
    provider: str
    status: str
    input_usd_per_1k: Decimal
    output_usd_per_1k: Decimal


class ChatModels(msgspec.Struct, frozen=True):
    """The models that may be asked."""

    object: Literal["list"]
    v: Literal[1]
    data: Sequence[ChatModel]


class _Said(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chunk adds."""

    content: str = ""
    reasoning_content: str = ""
    refusal: str = ""
    tool_calls: Sequence[Any] = ()


_encoder = msgspec.json.Encoder(decimal_format="number")


def encode(told: Any) -> bytes:
    """JSON; half a pair of UTF-16 from an upstream goes out as it came in, escaped."""
    try:
        return _encoder.encode(told)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(told, builtin_types=(Decimal,)), default=float).encode("ascii")


def completion(told: Completed) -> bytes:
    """The answer of /v1/chat/completions."""
    said = told.said
    message = ChatAnswerMessage(
        "assistant", said.text, said.refusal or None, said.thought or UNSET, said.tool_calls or UNSET
    )
    choice = ChatChoice(0, message, said.logprobs, said.finish)
    return encode(ChatCompletion(told.id, "chat.completion", told.created_s, told.model, (choice,), _usage(told.usage)))


def simple(told: Completed) -> ChatSimpleAnswer:
    """The answer of /v1/ai/chat."""
    cost, usage = told.cost, told.usage
    shown = ChatCost(cost.llm_usd, cost.fee_multiplier, cost.total_usd, cost.micros, cost.kai_usd)
    return ChatSimpleAnswer(told.said.text or "", usage.tokens_in, usage.tokens_out, told.latency_ms, shown)


def model(told: Listed) -> ChatModel:
    """One model."""
    return ChatModel(
        told.id,
        "model",
        told.created_s,
        told.owned_by,
        told.about,
        told.thinks,
        told.upstream_model,
        told.provider,
        told.status,
        told.usd_per_1k_in,
        told.usd_per_1k_out,
    )


def models(told: Sequence[Listed]) -> ChatModels:
    """All models: OpenAI's list and ours in one object."""
    return ChatModels("list", 1, [model(each) for each in told])


def headers(told: Completed) -> Mapping[str, str]:
    """What an answer says of itself beside its body."""
    return {MICROS_HEADER: str(told.cost.micros), **replayed(told.replayed)}


def replayed(was: bool) -> dict[str, str]:  # noqa: FBT001  it is all there is to say
    """Whether an answer is one that was given before."""
    return {REPLAYED_HEADER: "true"} if was else {}


def bad_request(refusal: Refusal) -> Response:
    """400, where elsewhere it is 422."""
    param: str | None = None
    rule: str | None = None
    if isinstance(refusal, wire.Wrong):
        param, rule = refusal.param, refusal.rule
    elif isinstance(refusal, ContextTooLong):
        # Agents know it by this code, and shorten what they send.
        param, rule = "messages", refusal.code
    return wire.no(400, refusal.text, "invalid_request_error", rule, param)


def failed(refusal: Refusal) -> bytes:
    """The event that ends a stream early."""
    return b"data: " + _spelt({"error": wire.refused(refusal)["error"]}) + b"\n\n"


class Chunks:
    """The events of one stream. What they share is spelled once.

    `usage_apart`: usage comes in a chunk of its own and is null in all others, as OpenAI does where it is asked for; else
    it rides on the chunk that finishes, so that whoever reads the first choice of each chunk finds one.
    """

    DONE = b"data: [DONE]\n\n"
    KEEP_ALIVE = b": keep-alive\n\n"

    def __init__(self, id_: str, created_s: int, model: str, *, usage_apart: bool) -> None:
        shared = encode(
            {"id": id_, "object": "chat.completion.chunk", "created": created_s, "model": model, "choices": []}
        )
        self._bare = b"data: " + shared[:-2]
        self._head = self._bare + b'{"index":0,"delta":'
        self._content = self._head + b'{"content":'
        self._apart = usage_apart
        self._end = b',"usage":null}\n\n' if usage_apart else b"}\n\n"
        self._tail = b',"logprobs":null,"finish_reason":null}]' + self._end
        self._content_tail = b"}" + self._tail

    def first(self) -> bytes:
        """Who speaks."""
        return self._head + b'{"role":"assistant","content":""}' + self._tail

    def said(self, delta: Delta) -> bytes:
        """What was said next; empty where the delta says nothing."""
        if delta.text and not (delta.thought or delta.refusal or delta.tool_calls or delta.logprobs):
            return self._content + _spelt(delta.text) + self._content_tail
        if not (delta.text or delta.thought or delta.refusal or delta.tool_calls or delta.logprobs):
            return b""
        said = _spelt(_Said(delta.text, delta.thought, delta.refusal, delta.tool_calls))
        logprobs = b',"logprobs":' + _spelt(delta.logprobs)
        return self._head + said + logprobs + b',"finish_reason":null}]' + self._end

    def finished(self, finish: str, usage: Usage) -> bytes:
        """How it ended and what it used, and that this is all."""
        head = self._head + b'{},"logprobs":null,"finish_reason":' + _spelt(finish) + b"}]"
        told = b',"usage":' + _spelt(_usage(usage)) + b"}\n\n"
        if self._apart:
            return head + self._end + self._bare + b"]" + told + self.DONE
        return head + told + self.DONE


def _spelt(told: Any) -> bytes:
    text = encode(told)
    if not text.isascii():
        for plain, escaped in _LINE_ENDS:
            text = text.replace(plain, escaped)
    return text


def _usage(usage: Usage) -> ChatUsage:
    thought, known = usage.reasoning_tokens, usage.cached_tokens
    return ChatUsage(
        usage.tokens_in,
        usage.tokens_out,
        usage.tokens_in + usage.tokens_out,
        UNSET if thought is None else ChatOutputDetails(thought),
        UNSET if known is None else ChatInputDetails(known),
    )


# For OpenAPI


def _schemas() -> dict[str, Any]:
    told = (ChatCompletionRequest, ChatSimpleRequest, ChatCompletion, ChatSimpleAnswer, ChatModel, ChatModels)
    _, named = msgspec.json.schema_components(told, ref_template="#/components/schemas/{name}")
    refused = {
        "type": "object",
        "required": ["detail", "error"],
        "properties": {
            "detail": {"type": "string"},
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "null"]},
                },
            },
        },
    }
    return {**named, "ChatRefused": refused}


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def _answers(content: Mapping[str, Any], *statuses: int) -> dict[int | str, dict[str, Any]]:
    made: dict[int | str, dict[str, Any]] = {200: {"description": "OK", "content": content}}
    return made | {status: {"description": _SAYS[status], "content": _json("ChatRefused")} for status in statuses}


def _question(name: str, example: Mapping[str, Any]) -> dict[str, Any]:
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "1 to 255 visible ASCII characters. The same key and body within a day: the same answer, paid once.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    }
    content = {"application/json": {**_json(name)["application/json"], "example": example}}
    return {"parameters": [key], "requestBody": {"required": True, "content": content}}


_SAYS = {
    400: "The body, or the Idempotency-Key, is not as it must be; `param` names the field",
    401: "The key or token is missing, or none of ours",
    402: "The balance does not cover what the answer may cost",
    403: "The key lacks the scope `ai`",
    404: "There is no such model",
    409: "The call with that Idempotency-Key still runs",
    422: "The body is not as it must be, or the Idempotency-Key was used for another one",
    429: "Too many requests or tokens; Retry-After says when to come back",
    502: "The model failed",
    503: "A setting is missing here",
    504: "The model did not answer in time",
}
_EVENTS = {"text/event-stream": {"schema": {"type": "string"}, "example": 'data: {"choices":[…]}\n\ndata: [DONE]\n\n'}}
_METERED = (400, 401, 402, 403, 404, 409, 422, 429, 502, 503, 504)

SCHEMAS: Mapping[str, Any] = _schemas()
COMPLETION_ANSWERS = _answers({**_json("ChatCompletion"), **_EVENTS}, *_METERED)
COMPLETION_QUESTION = _question(
    "ChatCompletionRequest", {"model": "kai-fast", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}
)
SIMPLE_ANSWERS = _answers(
    {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["v", "data"],
                "properties": {"v": {"const": 1}, "data": {"$ref": "#/components/schemas/ChatSimpleAnswer"}},
            }
        }
    },
    *_METERED,
)
SIMPLE_QUESTION = _question("ChatSimpleRequest", {"message": "hi", "model": "kai-fast", "max_tokens": 20})
MODELS_ANSWERS = _answers(_json("ChatModels"), 401, 429)
MODEL_ANSWERS = _answers(_json("ChatModel"), 401, 404, 429)
