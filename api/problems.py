"""Errors as ``application/problem+json`` (RFC 9457): one table from class to status.

The domain raises :class:`tuner.errors.TunerError` and knows no HTTP. A test walks that tree, so no
class lacks a row here. Requests that FastAPI itself refuses take the same form.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from tuner import errors
from tuner.logs import Seldom

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
SCHEMAS = "#/components/schemas/{model}"

EXPECTED = "input should be "
"""How pydantic begins."""

STATUS: Mapping[type[errors.TunerError], HTTPStatus] = {
    errors.TunerError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.InvalidInput: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.UnknownName: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.Refusal: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.LeaseLost: HTTPStatus.CONFLICT,
    errors.SearchFailed: HTTPStatus.CONFLICT,
    errors.NotVmappable: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.OutOfMemory: HTTPStatus.INSUFFICIENT_STORAGE,
    errors.SchemaOutdated: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.Unauthorized: HTTPStatus.UNAUTHORIZED,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.TooManyRequests: HTTPStatus.TOO_MANY_REQUESTS,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.Uninstalled: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.Locked: HTTPStatus.SERVICE_UNAVAILABLE,
}

EXAMPLES: Mapping[type[errors.TunerError], errors.TunerError] = {
    errors.InvalidInput: errors.InvalidInput("space.lr.low", "0.0: a log range must lie above 0"),
    errors.UnknownName: errors.UnknownName("task", "mnist", ["digits"], "task.name"),
    errors.Refusal: errors.Refusal("beta2", "the rule would take it to -0.024, outside [0, 1)"),
    errors.NotFound: errors.NotFound("study", 7),
    errors.Conflict: errors.Conflict("study 7 is completed: it cannot be paused"),
    errors.LeaseLost: errors.LeaseLost(41),
    errors.Unauthorized: errors.Unauthorized("this needs a token"),
    errors.Forbidden: errors.Forbidden("this needs a token with the scope submit"),
    errors.TooLarge: errors.TooLarge("the body is larger than 16 MiB", limit_bytes=2**24),
    errors.TooManyRequests: errors.TooManyRequests(
        "too many wrong tokens from this address", retry_after_seconds=31
    ),
    errors.Unavailable: errors.Unavailable("the database cannot be reached now"),
}

MOST_ERRORS = 1000
"""Nobody reads more, and all of them would be many times as long as the body."""


class FieldProblem(BaseModel):
    """One wrong value of a request."""

    field: str = Field(description="Its dotted path.", examples=["space.lr.low"])
    message: str


class Problem(BaseModel):
    """What went wrong, for a person (``detail``) and for a program (``code`` and ``facts``)."""

    type: str = Field(examples=["urn:tuner:problem:not_found"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["there is no study 7"])
    code: str = Field(description="Never changes once released.", examples=["not_found"])
    field: str | None = Field(default=None, description="The dotted path of the wrong value.")
    facts: dict[str, Any] = Field(default_factory=dict, description="What a program acts on.")
    errors: list[FieldProblem] = Field(
        default_factory=list,
        description=f"The wrong values, of which the first {MOST_ERRORS} are told.",
    )


def status_of(kind: type[errors.TunerError]) -> HTTPStatus:
    """The status of an error class, or that of its nearest ancestor in the table."""
    return next(STATUS[base] for base in kind.__mro__ if base in STATUS)


def problem(error: errors.TunerError) -> Problem:
    """The error as a problem document."""
    status = status_of(type(error))
    return Problem(
        type=f"urn:tuner:problem:{error.code}",
        title=status.phrase,
        status=status,
        detail=error.message,
        code=error.code,
        field=getattr(error, "field", None),
        facts=finite(jsonable_encoder(error.facts)),
    )


def headers_of(error: errors.TunerError) -> dict[str, str]:
    """What HTTP says of an error beside the status."""
    headers: dict[str, str] = {}
    if isinstance(error, errors.Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="tuner"'
    if isinstance(error, errors.TooManyRequests | errors.Unavailable):
        wait = error.facts.get("retry_after_seconds", 1)
        headers["Retry-After"] = str(max(1, math.ceil(float(str(wait)))))
    return headers


def response(error: errors.TunerError) -> Response:
    """The error as an HTTP answer."""
    return render(problem(error), headers_of(error))


def answer(request: Request, document: Problem, headers: Mapping[str, str] | None) -> Response:
    """The document, as a page where a person asked for one."""
    page: Callable[[Request, Problem], Response] | None = getattr(
        request.app.state, "error_page", None
    )
    path = request.url.path.removeprefix(request.scope.get("root_path", ""))
    if page and not path.startswith("/api/") and "text/html" in request.headers.get("accept", ""):
        made: Response = page(request, document)
        made.headers.update(headers or {})
        return made
    return render(document, headers)


def render(document: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """A problem document as an HTTP answer."""
    body = json.dumps(document.model_dump(mode="json", exclude_none=True), allow_nan=False)
    return Response(body, document.status, headers, MEDIA_TYPE)


def finite(value: Any) -> Any:
    """``value`` with numbers that JSON cannot hold turned into their names."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def documented(*kinds: type[errors.TunerError]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's ``responses`` for a route that raises ``kinds`` (and what every route raises)."""
    everywhere: Iterable[type[errors.TunerError]] = (
        errors.InvalidInput,
        errors.Unauthorized,
        errors.Forbidden,
        errors.TooManyRequests,
        errors.Unavailable,
    )
    found: dict[int | str, dict[str, Any]] = {}
    for kind in dict.fromkeys((*kinds, *everywhere)):
        status = int(status_of(kind))
        entry = found.setdefault(
            status,
            _response(" ".join((kind.__doc__ or "").split("\n")[0].split())),
        )
        if kind in EXAMPLES:
            example = problem(EXAMPLES[kind]).model_dump(mode="json", exclude_none=True)
            examples = entry["content"][MEDIA_TYPE].setdefault("examples", {})
            examples[kind.code] = {"value": example}
    return found


def _response(description: str) -> dict[str, Any]:
    # Not FastAPI's "model": that stands under application/json, which no error is.
    content = {"schema": {"$ref": SCHEMAS.format(model="Problem")}}
    return {"description": description, "content": {MEDIA_TYPE: content}}


def _complete(document: dict[str, Any]) -> None:
    """Adds to an OpenAPI document what every error looks like, and those of all who read a body."""
    made = Problem.model_json_schema(mode="serialization", ref_template=SCHEMAS)
    document["components"]["schemas"] |= {**made.pop("$defs"), "Problem": made}
    unread = {"400": _response("The body is no text, or no JSON that can be read.")}
    large = {"413": _response("The body is too large.")}
    for methods in document["paths"].values():
        for operation in methods.values():
            if "requestBody" in operation:
                parsed = "application/json" in operation["requestBody"]["content"]
                of_bodies = unread | large if parsed else large
                operation["responses"] = of_bodies | operation["responses"]


def install(app: FastAPI) -> None:
    """Makes the application answer every error as a problem document, and say so."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(plain())
        return plain()

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation does
    app.state.seldom = Seldom()
    app.add_exception_handler(errors.TunerError, _on_tuner_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)


def _on_tuner_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.TunerError)
    status = status_of(type(error))
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        mistake = status == HTTPStatus.INTERNAL_SERVER_ERROR
        # While the database is away each request would say so.
        left_out = 0 if mistake else request.app.state.seldom.due(error.code)
        if left_out is not None:
            logger.warning(
                "%s %s: %s%s",
                request.method,
                request.url.path,
                _with_cause(error),
                f" (and {left_out} more)" if left_out else "",
                exc_info=error if mistake else None,
                extra=_ids(request),
            )
    return answer(request, problem(error), headers_of(error))


def _with_cause(error: errors.TunerError) -> str:
    """The error in one line, with what it was made of; only for the log, as it may name hosts."""
    cause = str(error.__cause__ or "").partition("\n")[0]
    return f"{error}: {cause}" if cause else str(error)


def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found: dict[str, list[Mapping[str, Any]]] = {}
    for entry in error.errors()[:MOST_ERRORS]:
        found.setdefault(_path(entry, error.body), []).append(entry)
    fields = [FieldProblem(field=field, message=_told(told)) for field, told in found.items()]
    first = fields[0]
    document = problem(errors.InvalidInput(first.field, first.message))
    return answer(request, document.model_copy(update={"errors": fields}), None)


def _path(entry: Mapping[str, Any], body: Any) -> str:
    """``("body", "space", "choices", 0)`` as ``space.choices[0]``."""
    if entry["type"] == "json_invalid":  # what follows is an offset in the text, not a field
        return "body"
    where, *rest = entry["loc"]
    if where == "body":
        rest = _fields(rest, body, missing=entry["type"] == "missing")
    path = ""
    for part in rest:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path or str(where)


def _fields(parts: Sequence[int | str], body: Any, *, missing: bool) -> list[int | str]:
    """Those parts that the body has: pydantic also names the kinds that a value may be of."""
    found = []
    for i, part in enumerate(parts):
        item = isinstance(body, list) and isinstance(part, int)
        if item or (isinstance(body, Mapping) and part in body):
            body = body[part]
        elif not (missing and i == len(parts) - 1):
            continue
        found.append(part)
    return found


def _told(entries: Sequence[Mapping[str, Any]]) -> str:
    """What is wrong with one value, which has an entry for each kind that it might be of."""
    own = [entry for entry in entries if entry["type"] == "value_error"]
    sentences = list(dict.fromkeys(map(_sentence, own or entries)))
    *others, last = (sentence.removeprefix(EXPECTED) for sentence in sentences)
    return f"{EXPECTED}{', '.join(others)} or {last}" if others else sentences[0]


def _sentence(entry: Mapping[str, Any]) -> str:
    if entry["type"] == "json_invalid":
        return f"is not JSON: {entry.get('ctx', {}).get('error', 'malformed')}"
    if entry["type"] == "missing":
        return "is missing"
    if entry["type"] == "extra_forbidden":
        return errors.UNKNOWN_FIELD
    text = str(entry["msg"]).removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    code = {404: "not_found", 405: "method_not_allowed"}.get(status, "http_error")
    detail = error.detail if error.detail and error.detail != status.phrase else status.description
    document = Problem(
        type=f"urn:tuner:problem:{code}",
        title=status.phrase,
        status=status,
        detail=detail or status.phrase,
        code=code,
    )
    return answer(request, document, error.headers)


def _ids(request: Request) -> dict[str, object]:
    """What the path is about, as fields of a log: ``study_id`` as ``study``."""
    return {
        name.removesuffix("_id"): value
        for name, value in request.path_params.items()
        if name.endswith("_id")
    }


def on_bug(request: Request, error: Exception) -> Response:
    """The answer to a request that nobody foresaw; what went wrong is for the log alone."""
    told = _ids(request)
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error, extra=told)
    mistake = errors.TunerError("the server made a mistake; its log has the details")
    return answer(request, problem(mistake), None)
