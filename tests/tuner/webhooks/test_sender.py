"""Messages over real connections: where they arrive, and what refuses them."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from standardwebhooks import Webhook

from tests.receiver import Receiver, receiving
from tuner.webhooks import Outgoing, Sender, new_secret, sender, targets

LOOPBACK = ("127.0.0.1",)
SECRET = new_secret()


def message(url: str, number: int = 1) -> Outgoing:
    return Outgoing(url, SECRET, f"msg_{number}", {"type": "webhook.test", "data": {"n": number}})


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


def test_a_message_arrives_signed(receiver: Receiver) -> None:
    outcome = Sender(LOOPBACK)(message(receiver.url))
    assert (outcome.status, outcome.error) == (200, None)
    (got,) = receiver.received
    verified = Webhook(SECRET).verify(got.body.decode(), dict(got.headers))
    assert verified == {"type": "webhook.test", "data": {"n": 1}}
    assert got.headers["content-type"] == "application/json"
    assert got.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert abs(int(got.headers["webhook-timestamp"]) - time.time()) < 60


@pytest.mark.parametrize("status", [301, 302, 307, 400, 404, 410, 429, 500, 503])
def test_any_other_answer_than_yes_is_no(receiver: Receiver, status: int) -> None:
    receiver.answers = [status]
    outcome = Sender(LOOPBACK)(message(receiver.url))
    assert outcome.status == status
    assert str(status) in (outcome.error or "")
    assert len(receiver.received) == 1, "a redirect must not be followed"


def test_private_targets_are_refused_at_every_attempt(receiver: Receiver) -> None:
    """Also one that was public when it was accepted."""
    outcome = Sender()(message(receiver.url.replace("http:", "https:")))
    assert "not public" in (outcome.error or "")
    assert receiver.received == []


def test_the_connection_goes_to_the_address_that_was_checked(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that leads elsewhere once it was looked at (DNS rebinding) changes nothing."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: str, *arguments: object, **options: object) -> object:
        asked.append(str(host))
        # First what may be reached, then an address where nothing of ours is.
        address = "127.0.0.1" if asked.count(host) == 1 else "127.0.0.99"
        return real(address if host == "rebound.test" else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    url = f"http://rebound.test:{receiver.port}/hook"
    outcome = Sender(("rebound.test",))(message(url))
    assert outcome.error is None
    assert asked.count("rebound.test") == 1
    assert receiver.received[0].headers["host"] == f"rebound.test:{receiver.port}"


def test_the_next_address_is_tried_where_one_takes_no_connection(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = targets.check(receiver.url, LOOPBACK)
    # Nothing listens on that port of the first; the receiver is bound to 127.0.0.1 alone.
    two = targets.Target(target.url, ("127.0.0.2", "127.0.0.1"))
    monkeypatch.setattr(sender, "check", lambda url, allowed: two)
    outcome = Sender(LOOPBACK)(message(receiver.url))
    assert outcome.error is None


def test_one_that_never_answers_is_left(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "TOTAL_SECONDS", 1.0)
    receiver.silent.set()
    assert Sender(LOOPBACK)(message(receiver.url)).error == "no answer within 1 s"


def test_nobody_there_is_said() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    outcome = Sender(LOOPBACK)(message(f"http://127.0.0.1:{port}/"))
    assert outcome.status is None
    assert "failed" in (outcome.error or "")


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """An authority that this machine trusts, as SSL_CERT_FILE says."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return made


def certified(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every name that ends in .test lead to this machine."""
    real = socket.getaddrinfo

    def found(host: str, *arguments: object, **options: object) -> object:
        local = str(host).endswith(".test")
        return real("127.0.0.1" if local else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", found)


def test_certificates_are_for_the_name_not_the_address(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    named(monkeypatch)
    allowed = ("good.test", "other.test")
    send = Sender(allowed)
    with receiving(certified(authority, "good.test")) as receiver:
        urls = [f"https://{host}:{receiver.port}/hook" for host in allowed]
        good, other = (send(message(url, n)) for n, url in enumerate(urls))
        assert good.error is None
        assert "certificate" in (other.error or "").lower()
        # One after another too: no connection made for a name serves another one.
        assert [send(message(url)).error is None for url in urls * 2] == [True, False] * 2
        assert len(receiver.received) == 3


def test_a_certificate_of_an_unknown_authority_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch)
    with receiving(certified(trustme.CA(), "good.test")) as receiver:
        outcome = Sender(("good.test",))(message(f"https://good.test:{receiver.port}/"))
        assert "certificate" in (outcome.error or "").lower()
        assert receiver.received == []


def test_proxies_of_the_environment_see_nothing(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        outcome = Sender(LOOPBACK)(message(receiver.url))
        assert outcome.error is None
        assert proxy.received == []


def test_the_body_is_what_was_signed_to_the_byte(receiver: Receiver) -> None:
    body = {"type": "x", "data": {"name": "é\u2028 <script>", "list": [1, 2.5, None]}}
    Sender(LOOPBACK)(Outgoing(receiver.url, SECRET, "msg_1", body))
    (got,) = receiver.received
    assert json.loads(got.body) == body
    Webhook(SECRET).verify(got.body.decode(), dict(got.headers))
