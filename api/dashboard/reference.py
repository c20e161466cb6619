"""The API page: the OpenAPI document as a person reads it, with nothing loaded from afar."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.dashboard.render import Viewer, render
from api.dashboard.views import Shown

router = APIRouter()

METHODS = ("get", "post", "put", "patch", "delete")
DEEPEST = 6


@dataclass(frozen=True)
class Route:
    """One REST route on the API page."""

    id: str
    method: str
    path: str
    summary: str
    description: str
    parameters: Sequence[Mapping[str, Any]]
    body: str
    """An example, as JSON."""
    answers: Sequence[str]


@dataclass(frozen=True)
class RouteGroup:
    """The routes of one tag."""

    name: str
    description: str
    routes: Sequence[Route]


@dataclass(frozen=True)
class ReferencePage(Shown):
    """The REST API, from its OpenAPI document."""

    about: Sequence[str]
    groups: Sequence[RouteGroup]
    url: str


@router.get("/docs")
def show_reference(request: Request, who: Viewer) -> Response:
    """Every REST route with its parameters and an example of its body."""
    document = request.app.openapi()
    groups = []
    for tag in document["tags"]:
        routes = [
            _route(method, path, operation, document)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
            if method in METHODS and tag["name"] in operation.get("tags", ())
        ]
        if routes:
            groups.append(RouteGroup(tag["name"], tag.get("description", ""), routes))
    page = ReferencePage(
        title="API",
        section="/docs",
        who=who,
        about=document["info"]["description"].strip().split("\n\n"),
        groups=groups,
        url=str(request.base_url).rstrip("/"),
    )
    return render(request, "reference.html", page)


def _route(
    method: str, path: str, operation: Mapping[str, Any], document: Mapping[str, Any]
) -> Route:
    parameters = [
        {
            "name": parameter["name"],
            "place": parameter["in"],
            "type": _type(parameter["schema"]),
            "required": parameter.get("required", False),
            "description": parameter.get("description", ""),
        }
        for parameter in operation.get("parameters", ())
        if parameter["in"] != "cookie"
    ]
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    body = ""
    if content is not None:
        body = json.dumps(_example(content["schema"], document), indent=2)
    return Route(
        id=operation["operationId"],
        method=method.upper(),
        path=path,
        summary=operation.get("summary", ""),
        description=operation.get("description", ""),
        parameters=parameters,
        body=body,
        answers=[
            f"{status} {answer.get('description', '')}".strip()
            for status, answer in operation["responses"].items()
        ],
    )


def _type(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if "anyOf" in schema:
        kinds = [_type(one) for one in schema["anyOf"] if one.get("type") != "null"]
        return " | ".join(dict.fromkeys(kinds))
    return str(schema.get("type", "any"))


def _example(schema: Mapping[str, Any], document: Mapping[str, Any], depth: int = 0) -> Any:
    """A value of the schema: its own example, else one made of its fields' examples."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        schema = {**document["components"]["schemas"][name], **schema}
    for key in ("examples", "example", "default"):
        if key in schema:
            return schema[key][0] if key == "examples" else schema[key]
    if "anyOf" in schema:
        return _example(schema["anyOf"][0], document, depth)
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        wanted = schema.get("required") or list(schema.get("properties", {}))[:3]
        if depth >= DEEPEST:
            return {}
        return {
            name: _example(schema["properties"][name], document, depth + 1)
            for name in wanted
            if name in schema.get("properties", {})
        }
    if kind == "array":
        return [_example(schema.get("items", {}), document, depth + 1)] if depth < DEEPEST else []
    return {"integer": 1, "number": 0.1, "boolean": True, "string": "text"}.get(str(kind))
