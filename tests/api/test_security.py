from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import pytest

from api.security import COOKIE, FailureLimit
from tests.api.conftest import Server
from tuner.errors import TooManyRequests
from tuner.service import tokens

OPEN_PATHS = {"/healthz", "/readyz"}
IDS = ("study_id", "trial_id", "worker_id", "dataset_id", "webhook_id", "pool_id")
NAMES = {**dict.fromkeys(IDS, "1"), "name": "history", "sha256": "0" * 64}
METHODS = ("get", "post", "put", "patch", "delete")


def operations(client: httpx.Client) -> Iterator[tuple[str, str]]:
    document = client.get("/api/v1/openapi.json").json()
    for path, methods in document["paths"].items():
        for method in methods:
            if method in METHODS:
                yield method, path.format(**NAMES)


def test_every_route_asks_for_a_token(server: Server) -> None:
    with server.client(token="") as anonymous:
        for method, path in operations(anonymous):
            answer = anonymous.request(method, path, json={})
            if path in OPEN_PATHS:
                assert answer.status_code == 200
            else:
                assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), path
                assert answer.headers["www-authenticate"].startswith("Bearer")


def begun(server: Server, method: str, path: str, secret: str) -> bytes:
    """The status of the answer to a request whose body never comes."""
    shown = f"Authorization: Bearer {secret}\r\n" if secret else ""
    address = (urlsplit(server.url).hostname, urlsplit(server.url).port)
    with socket.create_connection(address, timeout=60.0) as connection:
        connection.sendall(
            f"{method.upper()} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{shown}"
            "Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n".encode()
        )
        return connection.makefile("rb").readline().split()[1]


def test_no_body_is_read_of_somebody_who_may_not_send_it(server: Server) -> None:
    """Or whoever reaches the port keeps the server busy, which reads and parses before it asks."""
    with server.client() as client:
        asked = [pair for pair in operations(client) if pair[1] not in OPEN_PATHS]
    asked += [("post", path) for path in ("/trials/1/vary", "/studies/1/delete", "/pools/1/scale")]
    for method, path in asked:
        assert begun(server, method, path, "") == b"401", path
    assert begun(server, "post", "/api/v1/studies", "wrong") == b"401"
    assert begun(server, "post", "/api/v1/studies", server.token("read")) == b"403"


def test_the_login_form_takes_no_more_than_a_token(server: Server) -> None:
    assert begun(server, "post", "/login", "") == b"413"


@pytest.mark.parametrize("secret", ["wrong", "tuner_" + "x" * 43, "é" * 5])
def test_wrong_tokens_are_refused(server: Server, secret: str) -> None:
    with server.client(token="") as anonymous:
        headers = {"authorization": f"Bearer {secret}".encode("latin-1")}
        answer = anonymous.get("/api/v1/studies", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


def test_revoking_a_token_ends_it_at_once(server: Server) -> None:
    secret = server.token("read")
    with server.client(secret) as reader:
        assert reader.get("/api/v1/studies").status_code == 200
        tokens.revoke_token(server.context, "read")
        assert reader.get("/api/v1/studies").status_code == 401


@pytest.mark.parametrize(
    ("scopes", "method", "path", "allowed"),
    [
        (["read"], "get", "studies", True),
        (["read"], "post", "studies/1/pause", False),
        (["read"], "post", "workers", False),
        (["submit"], "post", "studies/1/pause", True),
        (["submit"], "post", "workers/1/lease", False),
        (["submit"], "get", "studies", True),
        (["work"], "get", "studies", False),
        (["work"], "post", "workers/1/lease", True),
        (["work"], "delete", "studies/1", False),
        (["admin"], "post", "studies/1/pause", True),
        (["admin"], "post", "workers/1/lease", True),
        (["admin"], "get", "studies", True),
    ],
)
def test_scopes(server: Server, scopes: list[str], method: str, path: str, allowed: bool) -> None:
    secret = server.token(*scopes) if scopes != ["admin"] else server.admin
    with server.client(secret) as client:
        answer = client.request(method, f"/api/v1/{path}", json={"k": 1})
        assert (answer.status_code != 403) == allowed
        if not allowed:
            assert answer.json()["code"] == "forbidden"


def test_changes_name_their_actor(server: Server, spec: dict[str, object]) -> None:
    """Whoever makes them: a user, a user's own loop, a worker, an admin."""
    body = {"name": "mine", "tasks": ["digits"], "slots": 1}
    with (
        server.client(server.token("submit", "read")) as user,
        server.client(server.token("work")) as worker,
        server.client() as admin,
    ):
        assert user.post("/api/v1/studies", json=spec).json()["owner"] == "submit-read"
        (asked,) = user.post("/api/v1/studies/1/ask", json={"k": 1}).json()
        told = {"token": asked["token"], "values": [1.0]}
        user.post(f"/api/v1/trials/{asked['trial_id']}/tell", json=told).raise_for_status()
        worker.post("/api/v1/workers", json=body).raise_for_status()
        (leased,) = worker.post("/api/v1/workers/1/lease", json={"k": 1}).json()["leased"]
        end = {"trial_id": leased["trial_id"], "token": leased["token"], "outcome": "fail"}
        worker.post("/api/v1/workers/1/report", json={"slots": [end]}).raise_for_status()
        worker.delete("/api/v1/workers/1").raise_for_status()
        user.post("/api/v1/studies/1/cancel").raise_for_status()
        trail = admin.get("/api/v1/audit", params={"limit": 1000}).json()["items"]
        assert user.get("/api/v1/audit").status_code == 403
    of_server = {"trial.created"}  # suggested ahead, because nobody asked
    seen = {(e["kind"], e["actor"]) for e in trail if e["kind"] not in of_server or e["actor"]}
    assert {
        ("token.created", None),
        ("study.created", "submit-read"),
        ("trial.leased", "submit-read"),
        ("trial.state", "submit-read"),
        ("worker.registered", "work"),
        ("trial.leased", "work"),
        ("trial.state", "work"),
        ("worker.left", "work"),
        ("study.state", "submit-read"),
    } <= seen
    assert {actor for kind, actor in seen if not kind.startswith("token.")} <= {
        "submit-read",
        "work",
    }
    assert [e["id"] for e in trail] == sorted((e["id"] for e in trail), reverse=True)
    assert all(e["created_at"] for e in trail)


def test_the_audit_trail_comes_in_pages(client: httpx.Client, spec: dict[str, object]) -> None:
    client.post("/api/v1/studies", json=spec).raise_for_status()
    for _ in range(2):
        client.post("/api/v1/studies/1/pause").raise_for_status()
        client.post("/api/v1/studies/1/resume").raise_for_status()
    whole = client.get("/api/v1/audit").json()["items"]
    assert [e["kind"] for e in whole][:4] == ["study.state"] * 4
    paged: list[object] = []
    cursor = None
    for _ in whole:
        query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = client.get("/api/v1/audit", params=query).json()
        paged += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert paged == whole
    assert client.get("/api/v1/audit", params={"cursor": "x"}).json()["field"] == "cursor"


@contextmanager
def logged_in(server: Server) -> Iterator[httpx.Client]:
    with server.client(token="") as browser:
        answer = browser.post(
            "/login",
            data={"token": server.admin, "next": "/workers"},
            headers={"origin": server.url},
        )
        assert (answer.status_code, answer.headers["location"]) == (303, "/workers")
        yield browser


def test_the_dashboard_sends_strangers_to_the_login(server: Server) -> None:
    with server.client(token="") as browser:
        answer = browser.get("/studies/1?sort=value", headers={"accept": "text/html"})
        assert answer.status_code == 303
        assert answer.headers["location"] == "/login?next=%2Fstudies%2F1%3Fsort%3Dvalue"


def test_log_in_and_out(server: Server) -> None:
    with logged_in(server) as browser:
        assert "No studies yet" in browser.get("/").text
        assert browser.get("/api/v1/studies").status_code == 200
        browser.post("/logout", headers={"origin": server.url})
        assert browser.get("/api/v1/studies").status_code == 401


def test_the_cookie_is_for_the_browser_alone(server: Server) -> None:
    with server.client(token="") as browser:
        answer = browser.post(
            "/login", data={"token": server.admin}, headers={"sec-fetch-site": "same-origin"}
        )
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith(f"{COOKIE}=")
        assert {"HttpOnly", "SameSite=lax"} <= set(cookie.split("; "))


def test_behind_tls_the_cookie_is_secure(start: Callable[..., Server]) -> None:
    server = start(behind_proxy=True)
    with server.client(token="") as browser:
        answer = browser.post(
            "/login", data={"token": server.admin}, headers={"sec-fetch-site": "same-origin"}
        )
        assert "Secure" in answer.headers["set-cookie"]
        assert "strict-transport-security" in answer.headers


def test_a_wrong_token_stays_at_the_form(server: Server) -> None:
    with server.client(token="") as browser:
        answer = browser.post("/login", data={"token": "no"}, headers={"origin": server.url})
        assert answer.status_code == 401
        assert "wrong, expired or revoked" in answer.text
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "elsewhere", ["//evil.example", "https://evil.example", "/\\evil.example", "evil", "/a\nb"]
)
def test_the_login_leads_nowhere_else(server: Server, elsewhere: str) -> None:
    with server.client(token="") as browser:
        answer = browser.post(
            "/login",
            data={"token": server.admin, "next": elsewhere},
            headers={"origin": server.url},
        )
        assert answer.headers["location"] == "/"


CROSS_SITE = [
    {"origin": "http://["},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {},
]


@pytest.mark.parametrize("headers", CROSS_SITE)
def test_another_site_changes_nothing_with_the_cookie(
    server: Server, spec: dict[str, object], headers: dict[str, str]
) -> None:
    with logged_in(server) as browser:
        refused = browser.post("/api/v1/studies", json=spec, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        assert browser.get("/api/v1/studies").json()["items"] == []
        assert browser.post("/studies/1/cancel", headers=headers).status_code == 403
        assert browser.post("/logout", headers=headers).status_code == 403


def test_a_token_that_may_not_look_is_refused_at_the_login(server: Server) -> None:
    with server.client(token="") as browser:
        answer = browser.post(
            "/login",
            data={"token": server.token("work")},
            headers={"sec-fetch-site": "same-origin", "accept": "text/html"},
        )
        assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
        assert "needs one with the scope read" in answer.text


def test_whoever_is_logged_in_can_log_out_of_a_refusal(server: Server) -> None:
    headers = {"accept": "text/html"}
    with server.client(token="") as browser:
        assert "/logout" not in browser.get("/nothing", headers=headers).text
        browser.cookies.set(COOKIE, server.token("work"))
        answer = browser.get("/", headers=headers)
        assert (answer.status_code, "/logout" in answer.text) == (403, True)


@pytest.mark.parametrize("headers", CROSS_SITE)
def test_another_site_logs_nobody_in(server: Server, headers: dict[str, str]) -> None:
    with server.client(token="") as browser:
        answer = browser.post("/login", data={"token": server.admin}, headers=headers)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers


def test_the_same_site_may(server: Server, spec: dict[str, object]) -> None:
    with logged_in(server) as browser:
        for name, headers in (
            ("a", {"sec-fetch-site": "same-origin"}),
            ("b", {"origin": server.url}),
        ):
            answer = browser.post("/api/v1/studies", json={**spec, "name": name}, headers=headers)
            assert answer.status_code == 201


def test_without_auth_another_site_is_refused_too(
    start: Callable[..., Server], spec: dict[str, object]
) -> None:
    server = start(auth=False)
    with server.client() as client:
        for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
            assert client.post("/api/v1/studies", json=spec, headers=headers).status_code == 403
        assert client.post("/api/v1/studies", json=spec).status_code == 201


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "", "[::2]:8420"])
def test_without_auth_only_loopback_names_are_answered(
    start: Callable[..., Server], host: str
) -> None:
    server = start(auth=False)
    with server.client() as client:
        assert client.get("/api/v1/studies", headers={"host": host}).status_code == 403
        for name in ("localhost:8420", "127.0.0.1", "[::1]:99"):
            assert client.get("/api/v1/studies", headers={"host": name}).status_code == 200


def test_failures_are_limited_but_good_tokens_go_on(server: Server) -> None:
    with server.client() as good, server.client("bad") as bad:
        assert good.get("/api/v1/studies").status_code == 200
        codes = [bad.get("/api/v1/studies").status_code for _ in range(22)]
        assert codes == [401] * 20 + [429] * 2
        late = bad.get("/api/v1/studies")
        assert 1 <= int(late.headers["retry-after"]) <= 60
        assert good.get("/api/v1/studies").status_code == 200


def test_a_token_that_was_good_locks_nobody_out(server: Server) -> None:
    """A page that is open goes on showing it, and the next login comes from the same address."""
    with server.client(server.token("read")) as ended:
        assert ended.get("/api/v1/studies").status_code == 200
        tokens.revoke_token(server.context, "read")
        codes = {ended.get("/api/v1/studies").status_code for _ in range(25)}
        assert codes == {401}
    with server.client(server.token("read", "submit")) as fresh:
        assert fresh.get("/api/v1/studies").status_code == 200


def test_the_limit_forgets_after_a_minute_and_stays_small() -> None:
    clock = [0.0]
    limit = FailureLimit(2, lambda: clock[0])
    limit.failed("a", "wrong")
    limit.failed("a", "wrong")
    with pytest.raises(TooManyRequests):
        limit.check("a", "x")
    limit.check("b", "x")
    clock[0] = 60.0
    limit.check("a", "x")
    for i in range(2 * FailureLimit.MOST_ADDRESSES):
        limit.failed(f"10.{i}", "wrong")
    assert len(limit._failures) == FailureLimit.MOST_ADDRESSES


def test_addresses_of_one_ipv6_network_fail_together() -> None:
    limit = FailureLimit(2)
    limit.failed("2001:db8:0:1::1", "wrong")
    limit.failed("2001:db8:0:1:ffff::2", "wrong")
    with pytest.raises(TooManyRequests):
        limit.check("2001:db8:0:1::3", "x")
    limit.check("2001:db8:0:2::3", "x")
    limit.failed("::ffff:192.0.2.1", "wrong")
    limit.failed("192.0.2.1", "wrong")
    with pytest.raises(TooManyRequests):
        limit.check("192.0.2.1", "x")
    limit.check("192.0.2.2", "x")
    limit.check("unknown", "x")


def test_behind_a_proxy_its_word_alone_counts(start: Callable[..., Server]) -> None:
    """It adds whom it was asked by; what a client says of itself stands before that."""
    server = start(behind_proxy=True)
    with server.client("bad") as client:
        for i in range(20):
            said = {"x-forwarded-for": f"198.51.100.{i}, 203.0.113.7"}
            assert client.get("/api/v1/studies", headers=said).status_code == 401
        said = {"x-forwarded-for": "198.51.100.99, 203.0.113.7"}
        assert client.get("/api/v1/studies", headers=said).status_code == 429
        twice = [("x-forwarded-for", "203.0.113.8"), ("x-forwarded-for", "203.0.113.7")]
        assert client.get("/api/v1/studies", headers=twice).status_code == 429
        for other in ("203.0.113.8", "203.0.113.7, 203.0.113.8", "2001:db8::1", "nonsense"):
            said = {"x-forwarded-for": other}
            assert client.get("/api/v1/studies", headers=said).status_code == 401


def test_without_a_proxy_nobody_speaks_for_others(server: Server) -> None:
    with server.client("bad") as client:
        codes = [
            client.get("/api/v1/studies", headers={"x-forwarded-for": f"203.0.113.{i}"}).status_code
            for i in range(21)
        ]
        assert codes == [401] * 20 + [429]


def test_a_bug_tells_nothing_and_keeps_the_headers(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    for name in ("list_workers", "page_of_workers"):
        monkeypatch.setattr(f"tuner.service.{name}", broken)
    with server.client() as client:
        answer = client.get("/api/v1/workers")
        assert (answer.status_code, answer.json()["code"]) == (500, "error")
        assert "secret detail" not in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        page = client.get("/workers", headers={"accept": "text/html"})
        assert page.status_code == 500
        assert "default-src 'none'" in page.headers["content-security-policy"]
        measured = 'route="/api/v1/workers",status="500"'
        assert measured in client.get("/metrics").text


def test_headers_keep_browsers_narrow(client: httpx.Client) -> None:
    for path in ("/", "/api/v1/studies", "/nothing", "/healthz"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"


def test_bodies_have_a_limit(start: Callable[..., Server]) -> None:
    server = start(max_body_bytes=2048)
    with server.client() as client:
        stated = client.post("/api/v1/studies", content=b"x" * 4096)
        assert (stated.status_code, stated.json()["code"]) == (413, "too_large")

        def pieces() -> Iterator[bytes]:
            yield b"{"
            for _ in range(8):
                yield b" " * 1024

        streamed = client.post(
            "/api/v1/studies", content=pieces(), headers={"content-type": "application/json"}
        )
        assert (streamed.status_code, streamed.json()["code"]) == (413, "too_large")
