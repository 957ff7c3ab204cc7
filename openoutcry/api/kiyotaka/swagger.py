"""The contract as Swagger 2.0, in the form that the usual generator beside grpc-gateway gives it; and its parts for OpenAPI."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import msgspec
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, MethodDescriptor

from openoutcry.api.kiyotaka import contract
from openoutcry.api.kiyotaka.wire import KEY

DEFINITIONS = "#/definitions/"
_SCALARS: Mapping[int, Mapping[str, str]] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.TYPE_INT64: {"type": "string", "format": "int64"},
    FieldDescriptor.TYPE_FIXED32: {"type": "integer", "format": "int64"},
}
REFUSED = "rpcStatus"


class Route(msgspec.Struct, frozen=True):
    """A method of the service, with the path it has over REST; None where it has none."""

    method: str
    path: str | None
    text: str
    asks: str
    answers: str
    streams: bool


class Said:
    """What the files of the contract say about their parts, by full name: the comments beside them."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        for file in contract.FILES.file:
            texts = {
                tuple(place.path): " ".join(place.leading_comments.split()) for place in file.source_code_info.location
            }
            for path, name in _named(file):
                self._texts[name] = texts.get(path, "")

    def __call__(self, name: str) -> str:
        """Empty where nothing is said."""
        return self._texts.get(name, "")


@cache
def said() -> Said:
    """The comments of the contract."""
    return Said()


@cache
def routes() -> Sequence[Route]:
    """The methods in order."""
    service = contract.POOL.FindServiceByName(contract.SERVICE)
    streaming = {
        method.name: method.server_streaming
        for file in contract.FILES.file
        for each in file.service
        for method in each.method
    }
    return [
        Route(
            method.name,
            _path(method),
            said()(method.full_name),
            method.input_type.full_name,
            method.output_type.full_name,
            streaming[method.name],
        )
        for method in service.methods
    ]


@cache
def document() -> bytes:
    """Swagger 2.0."""
    return msgspec.json.encode(
        {
            "swagger": "2.0",
            "info": {"title": "Points", "version": "1.0"},
            "tags": [{"name": "API", "description": said()(contract.SERVICE)}],
            "consumes": ["application/json"],
            "produces": ["application/json"],
            "paths": {route.path: {"get": _operation(route)} for route in routes() if route.path is not None},
            "definitions": schemas(DEFINITIONS),
            "securityDefinitions": {"key": {"type": "apiKey", "name": KEY, "in": "header"}},
            "security": [{"key": []}],
        }
    )


def schemas(prefix: str) -> dict[str, Any]:
    """Every message and enum of answers, and how no is said; references are below `prefix`."""
    made: dict[str, Any] = {}
    for route in routes():
        if route.path is not None:
            _describe(contract.POOL.FindMessageTypeByName(route.answers), prefix, made)
    made["protobufAny"] = {
        "type": "object",
        "properties": {"@type": {"type": "string"}},
        "additionalProperties": {},
    }
    made[REFUSED] = {
        "type": "object",
        "properties": {
            "code": {"type": "integer", "format": "int32"},
            "message": {"type": "string"},
            "details": {"type": "array", "items": {"type": "object", "$ref": f"{prefix}protobufAny"}},
            "error": {"type": "string", "description": "The code as a word."},
        },
    }
    return dict(sorted(made.items()))


def parameters(message: str) -> Iterator[tuple[str, str, bool, dict[str, Any]]]:
    """Name, text, whether it may be repeated, and schema of one value, for each field of a request."""
    for field in contract.POOL.FindMessageTypeByName(message).fields:
        yield field.name, said()(field.full_name), field.is_repeated, _value(field)


def name_of(full_name: str) -> str:
    """What a message or enum is called among the definitions."""
    package, _, name = full_name.rpartition(".")
    return f"{package}{name}"


def _operation(route: Route) -> dict[str, Any]:
    asked = []
    for name, text, repeated, schema in parameters(route.asks):
        each: dict[str, Any] = {"name": name, "in": "query", "required": False}
        if text:
            each["description"] = text
        if repeated:
            items = {key: value for key, value in schema.items() if key != "default"}
            each |= {"type": "array", "items": items, "collectionFormat": "multi"}
        else:
            each |= schema
        asked.append(each)
    return {
        "summary": route.text,
        "operationId": f"API_{route.method}",
        "responses": {
            "200": {
                "description": "A successful response.",
                "schema": {"$ref": f"{DEFINITIONS}{name_of(route.answers)}"},
            },
            "default": {
                "description": "An unexpected error response.",
                "schema": {"$ref": f"{DEFINITIONS}{REFUSED}"},
            },
        },
        "parameters": asked,
        "tags": ["API"],
    }


def _value(field: FieldDescriptor) -> dict[str, Any]:
    return _enum(field.enum_type) if field.enum_type is not None else dict(_SCALARS[field.type])


def _enum(enum: EnumDescriptor) -> dict[str, Any]:
    return {"type": "string", "enum": [value.name for value in enum.values], "default": enum.values[0].name}


def _describe(message: Descriptor, prefix: str, made: dict[str, Any]) -> None:
    name = name_of(message.full_name)
    if name in made:
        return
    properties: dict[str, Any] = {}
    made[name] = {"type": "object", "properties": properties}
    if text := said()(message.full_name):
        made[name]["description"] = text
    for field in message.fields:
        kind = field.message_type or field.enum_type
        if field.message_type is not None:
            _describe(field.message_type, prefix, made)
        elif field.enum_type is not None:
            made.setdefault(name_of(kind.full_name), _described(field.enum_type))
        value = {"$ref": f"{prefix}{name_of(kind.full_name)}"} if kind is not None else dict(_SCALARS[field.type])
        properties[field.name] = {"type": "array", "items": value} if field.is_repeated else value
        if (text := said()(field.full_name)) and "$ref" not in properties[field.name]:
            properties[field.name]["description"] = text


def _described(enum: EnumDescriptor) -> dict[str, Any]:
    text = said()(enum.full_name)
    return {**_enum(enum), "description": text} if text else _enum(enum)


def _path(method: MethodDescriptor) -> str | None:
    """Its GET path in google.api.http, which is an extension that only this pool knows."""
    options = message_factory.GetMessageClass(contract.POOL.FindMessageTypeByName("google.protobuf.MethodOptions"))
    told = options.FromString(method.GetOptions().SerializeToString())
    rule = told.Extensions[contract.POOL.FindExtensionByName("google.api.http")]
    return rule.get or None


def _named(file: Any) -> Iterator[tuple[tuple[int, ...], str]]:
    """Path and full name of messages (4), their fields (2), enums (5), services (6), and their methods (2)."""
    package = f"{file.package}." if file.package else ""
    for n, message in enumerate(file.message_type):
        yield (4, n), f"{package}{message.name}"
        for m, field in enumerate(message.field):
            yield (4, n, 2, m), f"{package}{message.name}.{field.name}"
    for n, enum in enumerate(file.enum_type):
        yield (5, n), f"{package}{enum.name}"
    for n, service in enumerate(file.service):
        yield (6, n), f"{package}{service.name}"
        for m, method in enumerate(service.method):
            yield (6, n, 2, m), f"{package}{service.name}.{method.name}"
