"""Pages about the contract: what its files say, a Swagger UI, and the files themselves. They need no key.

/docs/      methods, messages and enums, as the files describe them
/swagger/   Swagger UI on /swagger/api.swagger.json
/proto/     the files, in folders that a browser or a mirror walks: service/, lib/ and types/ are roots for protoc
"""

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import cache
from html import escape
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response

from openoutcry.api.kiyotaka import contract, swagger

_METHODS = ["GET", "HEAD"]
# What fastapi-offline serves, seen from a page one folder down.
_ASSETS = "../static-offline-docs"
_FOREIGN = ("google/", "protoc-gen-openapiv2/")
_TYPES: Mapping[int, str] = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_FIXED32: "fixed32",
}
_ABOUT = (
    "<p>Market data as points of series. Every call brings its key: <code>x-kiyotaka-key</code>, in gRPC's metadata or as a "
    'header. <a href="../swagger/">Swagger</a> · <a href="../proto/">files</a></p>'
)
# Names in comments.
_NAMES = re.compile(r"`([^`]+)`")
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #1c1c1c }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc } h3 { margin-top: 2rem }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .25rem .6rem; border: 1px solid #ddd }
th { background: #f4f4f4 } code { font: 14px ui-monospace, monospace } a { color: #0b57a4 }
"""


def add(router: APIRouter) -> None:
    """The routes of the pages, which `/docs` does not list."""

    @router.api_route("/docs/", methods=_METHODS, include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(reference())

    @router.api_route("/swagger/", methods=_METHODS, include_in_schema=False)
    async def ui() -> Response:
        return get_swagger_ui_html(
            openapi_url="api.swagger.json",
            title="Points - Swagger UI",
            swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{_ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{_ASSETS}/favicon.png",
        )

    @router.api_route("/swagger/api.swagger.json", methods=_METHODS, include_in_schema=False)
    async def described() -> Response:
        return Response(swagger.document(), media_type="application/json")

    @router.api_route("/proto/{path:path}", methods=_METHODS, include_in_schema=False)
    async def proto(path: str) -> Response:
        # Looked up among what is there: no path of a caller is ever opened.
        text = sources().get(path)
        if text is not None:
            return Response(text, media_type="text/plain; charset=utf-8")
        listed = listings().get(path)
        if listed is None:
            raise HTTPException(404)
        return HTMLResponse(listed)

    for name in ("swagger", "proto"):
        router.add_api_route(f"/{name}", _to_folder(name), methods=_METHODS, include_in_schema=False)


def _to_folder(name: str) -> Callable[[], Awaitable[Response]]:
    async def moved() -> Response:
        return RedirectResponse(f"{name}/")

    return moved


@cache
def sources() -> Mapping[str, bytes]:
    """The files of the contract, by their paths below `/proto/`."""
    return dict(_below(files(__package__) / "proto", ""))


@cache
def listings() -> Mapping[str, str]:
    """A page of links for each folder, by its path below `/proto/`; the first is empty, the others end in a slash."""
    folders: dict[str, set[str]] = {"": set()}
    for path in sources():
        at = ""
        for part in path.split("/")[:-1]:
            folders[at].add(f"{part}/")
            at += f"{part}/"
            folders.setdefault(at, set())
        folders[at].add(path.rpartition("/")[2])
    return {path: _listing(path, sorted(names)) for path, names in folders.items()}


@cache
def reference() -> str:
    """Methods, messages and enums."""
    described = [each for each in contract.FILES.file if not each.name.startswith(_FOREIGN)]
    parts = [contract.POOL.FindFileByName(file.name) for file in reversed(described)]
    body = [
        _ABOUT,
        '<h2 id="methods">Methods</h2>',
        f"<p>Service <code>{contract.SERVICE}</code>. {_text(swagger.said()(contract.SERVICE))}</p>",
        _table(("method", "asks", "answers", "REST", "text"), (_method(route) for route in swagger.routes())),
    ]
    for file in parts:
        body += _file(file)
    return _page("Points", "\n".join(body))


def _below(folder: Traversable, path: str) -> Iterator[tuple[str, bytes]]:
    for each in folder.iterdir():
        if each.is_dir():
            yield from _below(each, f"{path}{each.name}/")
        elif each.name.endswith(".proto"):
            yield f"{path}{each.name}", each.read_bytes()


def _listing(path: str, names: list[str]) -> str:
    links = [f'<li><a href="{escape(name)}">{escape(name)}</a></li>' for name in (["../"] if path else []) + names]
    return _page(f"/proto/{path}", "<ul>\n" + "\n".join(links) + "\n</ul>")


def _method(route: swagger.Route) -> tuple[str, ...]:
    answers = _link(route.answers)
    return (
        f"<code>{escape(route.method)}</code>",
        _link(route.asks),
        f"stream of {answers}" if route.streams else answers,
        f"<code>GET {escape(route.path)}</code>" if route.path is not None else "",
        _text(route.text),
    )


def _file(file: FileDescriptor) -> Iterator[str]:
    yield f"<h2>{escape(file.name)}</h2>"
    for message in file.message_types_by_name.values():
        yield from _message(message)
    for enum in file.enum_types_by_name.values():
        yield from _enum(enum)


def _message(message: Descriptor) -> Iterator[str]:
    yield from _head(message.full_name)
    rows = (
        (
            f"<code>{escape(field.name)}</code>",
            str(field.number),
            _type(field),
            escape(_label(field)),
            _text(swagger.said()(field.full_name)),
        )
        for field in message.fields
    )
    yield _table(("field", "number", "type", "label", "text"), rows)


def _enum(enum: EnumDescriptor) -> Iterator[str]:
    yield from _head(enum.full_name)
    yield _table(("name", "number"), ((f"<code>{value.name}</code>", str(value.number)) for value in enum.values))


def _head(name: str) -> Iterator[str]:
    yield f'<h3 id="{escape(name)}">{escape(name)}</h3>'
    if text := swagger.said()(name):
        yield f"<p>{_text(text)}</p>"


def _type(field: FieldDescriptor) -> str:
    kind = field.message_type or field.enum_type
    return _TYPES[field.type] if kind is None else _link(kind.full_name)


def _label(field: FieldDescriptor) -> str:
    if field.is_repeated:
        return "repeated"
    within = field.containing_oneof
    if within is None:
        return ""
    # The compiler makes a oneof of its own for every optional field.
    return "optional" if within.name.startswith("_") else f"one of {within.name}"


def _text(said: str) -> str:
    return _NAMES.sub(r"<code>\1</code>", escape(said))


def _link(name: str) -> str:
    return f'<a href="#{escape(name)}">{escape(name)}</a>'


def _table(heads: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{each}</th>" for each in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{each}</td>" for each in row) + "</tr>" for row in rows)
    return f"<table>\n<tr>{head}</tr>\n{body}\n</table>"


def _page(title: str, body: str) -> str:
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )
