from __future__ import annotations

import json
import math
from collections.abc import Iterator
from http import HTTPStatus

import httpx
import pytest

from api import problems
from api.text import LARGE_BYTES
from tuner import errors

SEEN = {"lr": 0.1, "batch_size": 1, "loss": 1.0}
N_STARTUP = "sampler.n_startup_trials"


def tree(root: type[errors.TunerError] = errors.TunerError) -> Iterator[type[errors.TunerError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child)


@pytest.mark.parametrize("kind", list(tree()))
def test_every_error_class_has_a_row(kind: type[errors.TunerError]) -> None:
    assert kind in problems.STATUS


def test_a_class_from_elsewhere_takes_the_row_of_its_parent() -> None:
    class Odd(errors.NotFound):
        code = "odd"

    assert problems.status_of(Odd) is HTTPStatus.NOT_FOUND


@pytest.mark.parametrize("error", list(problems.EXAMPLES.values()), ids=lambda e: e.code)
def test_an_error_becomes_a_problem_document(error: errors.TunerError) -> None:
    answer = problems.response(error)
    document = json.loads(bytes(answer.body))
    assert answer.media_type == "application/problem+json"
    assert document["status"] == answer.status_code == problems.STATUS[type(error)]
    assert document["code"] == error.code
    assert document["detail"] == str(error)
    assert document.get("field") == getattr(error, "field", None)


def test_headers_that_http_asks_for() -> None:
    assert problems.response(errors.Unauthorized("no")).headers["www-authenticate"]
    late = errors.TooManyRequests("slow", retry_after_seconds=2.2)
    assert problems.response(late).headers["retry-after"] == "3"
    assert problems.response(errors.Unavailable("later")).headers["retry-after"] == "1"


def test_facts_that_json_cannot_hold_are_named() -> None:
    error = errors.InvalidInput("lr", "no", given=math.inf, several=[math.nan, 1.0])
    document = json.loads(bytes(problems.response(error).body))
    assert document["facts"] == {"field": "lr", "given": "inf", "several": ["nan", 1.0]}


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"k": 0}, "k", "greater than or equal to 1"),
        ({"k": "many"}, "k", "valid integer"),
        ({"k": 1, "l": 2}, "l", "no such field"),
        ([], "body", "valid dictionary"),
    ],
)
def test_a_request_of_the_wrong_form_names_its_field(
    client: httpx.Client, body: object, field: str, words: str
) -> None:
    answer = client.post("/api/v1/studies/1/ask", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["field"] == field
    assert words in answer.json()["detail"]
    assert answer.json()["errors"][0]["field"] == field


def test_what_is_not_json_says_so(client: httpx.Client) -> None:
    answer = client.post(
        "/api/v1/studies", content=b"{nope", headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["field"]) == (422, "body")
    assert "not JSON" in answer.json()["detail"]


@pytest.mark.parametrize("spaces", [0, LARGE_BYTES], ids=["small", "large"])
def test_a_body_says_nothing_twice(client: httpx.Client, spaces: int) -> None:
    """As no study file in YAML may: the last of two ranges would be taken without a word."""
    body = b'{"name": "a", "space": {"lr": {"low": 1e-5, "high": 1e-3, "low": 1e-4}}}'
    answer = client.post(
        "/api/v1/studies",
        content=body + b" " * spaces,
        headers={"content-type": "application/json"},
    )
    assert (answer.status_code, answer.json()["field"]) == (422, "body")
    assert "the key 'low' is there already" in answer.json()["detail"]


def test_unknown_paths_and_methods_are_problems_too(client: httpx.Client) -> None:
    for answer, code in (
        (client.get("/api/v1/nothing"), "not_found"),
        (client.delete("/api/v1/studies"), "method_not_allowed"),
        (client.get("/api/v1/studies/4711"), "not_found"),
    ):
        assert answer.json()["code"] == code
        assert answer.json()["status"] == answer.status_code


def test_a_person_gets_a_page_and_a_program_a_document(client: httpx.Client) -> None:
    page = client.get("/studies/4711", headers={"accept": "text/html"})
    assert page.status_code == 404
    assert "there is no study 4711" in page.text
    assert page.headers["content-type"].startswith("text/html")
    assert client.get("/studies/4711").json()["code"] == "not_found"


def test_ids_beyond_what_a_database_holds_are_refused(client: httpx.Client) -> None:
    for path in (f"studies/{2**31}", f"trials/{2**63}", "studies/0"):
        assert client.get(f"/api/v1/{path}").status_code == 422


HUGE = 10**400


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("studies/1/trials", {"configs": [{"lr": HUGE}]}, "configs[0].lr"),
        ("advisor/scale", {"config": {"batch_size": HUGE}, "batch": 2}, "config.batch_size"),
        ("advisor/fit", {"trials": [SEEN | {"facts": {"x": HUGE}}]}, "trials[0].facts.x"),
        ("studies", {"warm_start": [10**30]}, "warm_start[0]"),
        ("studies", {"sampler": {"name": "tpe", "n_startup_trials": HUGE}}, N_STARTUP),
        ("studies", {"sampler": {"name": "tpe", "n_startup_trials": 10**17}}, N_STARTUP),
    ],
)
def test_numbers_that_no_database_holds_are_refused(
    client: httpx.Client, spec: dict[str, object], path: str, body: dict[str, object], field: str
) -> None:
    assert client.post("/api/v1/studies", json=spec).status_code == 201
    answer = client.post(
        f"/api/v1/{path}", json=spec | body | {"name": "b"} if path == "studies" else body
    )
    assert (answer.status_code, answer.json()["field"]) == (422, field)


def test_what_a_worker_says_of_its_device_is_no_danger_to_the_page(client: httpx.Client) -> None:
    hello = {"name": "w", "tasks": ["digits"], "device": {"memory": HUGE}}
    assert client.post("/api/v1/workers", json=hello).status_code == 201
    assert client.get("/workers").status_code == 200


def test_a_value_of_several_kinds_is_one_error_at_its_place(client: httpx.Client) -> None:
    answer = client.post("/api/v1/studies/1/trials", json={"configs": [{"lr": {"a": 1}}]})
    (error,) = answer.json()["errors"]
    assert error["field"] == answer.json()["field"] == "configs[0].lr"
    assert error["message"].endswith("a valid boolean or a valid list")
    answer = client.post("/api/v1/studies/1/trials", json={"configs": [{"lr": HUGE}]})
    (error,) = answer.json()["errors"]
    assert error["message"].startswith("is a whole number beyond 2^53")


def test_the_documentation_knows_what_an_error_looks_like(client: httpx.Client) -> None:
    document = client.get("/api/v1/openapi.json").json()
    assert {"Problem", "FieldProblem"} <= set(document["components"]["schemas"])
    wanted = {"$ref": "#/components/schemas/Problem"}
    for methods in document["paths"].values():
        for operation in methods.values():
            answers = operation["responses"]
            for status, told in answers.items():
                if status >= "400":
                    assert set(told["content"]) == {"application/problem+json"}
                    problem = told["content"]["application/problem+json"]
                    assert problem["schema"] == wanted
                    assert problem.get("examples") != {}
            assert ("requestBody" in operation) == ("413" in answers)
            parsed = "application/json" in operation.get("requestBody", {}).get("content", {})
            assert parsed == ("400" in answers)
    upload = document["paths"]["/api/v1/datasets"]["post"]["responses"]
    assert "too_large" in upload["413"]["content"]["application/problem+json"]["examples"]


def test_half_a_surrogate_pair_is_refused(client: httpx.Client) -> None:
    for body in (b'{"name": "\\ud800", "tasks": ["a"]}', b'{"name": "\\uDC00x", "tasks": ["a"]}'):
        answer = client.post(
            "/api/v1/workers", content=body, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 422
    whole = b'{"name": "\\ud83d\\ude00", "tasks": ["a"], "device": {"x": "\\ud83d\\ude00"}}'
    answer = client.post(
        "/api/v1/workers", content=whole, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 201
    half = b'{"name": "a", "tasks": ["a"], "device": {"x": "\\ud83d"}}'
    answer = client.post(
        "/api/v1/workers", content=half, headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["field"]) == (422, "body")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("workers/1/report", {"slots": [{}] * 5000}),
        (
            "workers/1/report",
            {"slots": [{"trial_id": 1, "token": "x", "measurements": [1] * 5000}]},
        ),
        ("workers/1/heartbeat", {"held": {str(i): 1 for i in range(1, 5000)}}),
        ("studies", {"name": "s", "warm_start": ["x"] * 5000}),
        ("studies", {"name": "s", "tags": [1] * 5000}),
        ("studies", {"name": "s", **{f"n{i}": 1 for i in range(5000)}}),
    ],
    ids=["slots", "measurements", "held", "warm_start", "tags", "unknown"],
)
def test_of_very_many_wrong_values_some_are_told(
    client: httpx.Client, path: str, body: dict[str, object]
) -> None:
    answer = client.post(f"/api/v1/{path}", json=body)
    assert answer.status_code == 422
    assert 1 <= len(answer.json()["errors"]) <= problems.MOST_ERRORS
    assert answer.json()["errors"][0]["field"] == answer.json()["field"]
