"""Pages of the server: one to try the model, and the description of the API. They load nothing from other hosts."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from fastapi.responses import HTMLResponse
from jinja2 import ChoiceLoader, Environment, PackageLoader

from clips_pipeline.reports.page import environment

_INLINE = {kind: re.compile(f"<{kind}>(.*?)</{kind}>", re.DOTALL) for kind in ("script", "style")}

_STATUSES: Final = (
    ("400", "the body is not JSON"),
    ("401", "the token is missing or wrong"),
    ("404", "no such address, or the server has no index, or the model has no captioner"),
    ("408", "the body arrived too slowly"),
    ("413", "too many bytes or items; send several requests"),
    ("415", "another Content-Type"),
    ("422", "a wrong key or type, or no item has a result"),
    ("503", "too many items are waiting; try again after the seconds of Retry-After"),
)
_ERRORS: Final = (
    "An error is {'error': {'reason': …, 'message': …}}. If some items of a request have a result and others do not, the "
    "status is 200, the place of the others is null, and errors says why."
)


@dataclass(frozen=True)
class Page:
    """A page with its content security policy, which allows this script and this style only."""

    html: str
    policy: str

    def response(self) -> HTMLResponse:
        """Return the page as an answer."""
        return HTMLResponse(self.html, headers={"Content-Security-Policy": self.policy})


def start_page(*, can_caption: bool, can_search: bool, with_pictures: bool, needs_token: bool) -> Page:
    """Return the page that shows captions, similarities and neighbors of a picture."""
    return _page(
        "start.html",
        title="Try the model",
        can_caption=can_caption,
        can_search=can_search,
        with_pictures=with_pictures,
        needs_token=needs_token,
    )


def docs_page(openapi: Mapping[str, Any]) -> Page:
    """Return the description of the API.

    Args:
        openapi: the OpenAPI document.
    """
    schemas = openapi["components"]["schemas"]
    endpoints = [
        _endpoint(path, method, operation, schemas)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    return _page(
        "docs.html",
        title=f"API of {openapi['info']['title']}",
        about=openapi["info"]["description"],
        endpoints=endpoints,
        errors=_ERRORS,
        statuses=_STATUSES,
    )


@cache
def _templates() -> Environment:
    base = environment()
    assert base.loader is not None  # noqa: S101
    return base.overlay(loader=ChoiceLoader([PackageLoader("clips_pipeline.serving"), base.loader]))


def _page(template: str, **values: Any) -> Page:
    html = _templates().get_template(template).render(values)
    sources = {kind: " ".join(map(_hash, pattern.findall(html))) or "'none'" for kind, pattern in _INLINE.items()}
    policy = (
        f"default-src 'none'; script-src {sources['script']}; style-src {sources['style']}; img-src blob: data:; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )
    return Page(html, policy)


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _endpoint(path: str, method: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> dict[str, Any]:
    content = operation.get("requestBody", {}).get("content", {})
    answer = operation["responses"]["200"].get("content", {}).get("application/json", {}).get("schema", {})
    name = str(answer.get("$ref", "")).rpartition("/")[2]
    return {
        "path": path,
        "method": method.upper(),
        "about": operation.get("description", ""),
        "types": ", ".join(content),
        "example": json.dumps(content["application/json"]["schema"]["example"], ensure_ascii=False) if content else "",
        "body": _fields(content.get("application/json", {}).get("schema", {})),
        "answer": _fields(schemas.get(name, {})),
    }


def _fields(schema: Mapping[str, Any]) -> Sequence[tuple[str, str, str]]:
    # An answer has all its keys.
    required = (
        schema.get("required", ()) if schema.get("additionalProperties") is False else schema.get("properties", ())
    )
    return [
        (name, _type(field), f"{'' if name in required else 'optional; '}{_meaning(field)}")
        for name, field in schema.get("properties", {}).items()
    ]


def _meaning(field: Mapping[str, Any]) -> str:
    return str(field.get("description") or field.get("items", {}).get("description", ""))


def _type(field: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(map(_type, field["anyOf"]))
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "enum" in field:
        return " or ".join(map(str, field["enum"]))
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    return str(field.get("type", "any"))
