"""Where webhooks may go: every address that a name leads to is looked at."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest

from tuner.errors import InvalidInput
from tuner.webhooks import check
from tuner.webhooks.targets import is_public

PRIVATE = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "100.100.100.200",  # a cloud's metadata
    "127.0.0.1",
    "127.8.8.8",
    "169.254.169.254",  # most clouds' metadata
    "168.63.129.16",  # a cloud's own services
    "172.16.0.1",
    "192.0.0.8",
    "192.0.0.192",  # a cloud's metadata
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:192.0.0.192",
    "::ffff:0:7f00:1",
    "100::1",
    "2001:0:53aa:64c:0:0:80ff:fffe",  # Teredo of 127.0.0.1
    "2001:db8::1",
    "2002:7f00:1::",  # 6to4 of 127.0.0.1
    "64:ff9b::7f00:1",  # NAT64 of 127.0.0.1
    "64:ff9b:1::1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fd00:ec2::254",  # a cloud's metadata
    "fe80::1",
    "fe80::1%1",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_what_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "[::1]", "169.254.169.254", "2130706433", "0x7f.1", "127.1", "0", "localhost"],
)
def test_no_way_to_write_a_private_address_passes(host: str) -> None:
    with pytest.raises(InvalidInput, match="TUNER_WEBHOOK_HOSTS") as caught:
        check(f"https://{host}:8080/x")
    assert caught.value.field == "url"


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Makes every name lead to these addresses."""

    def found(host: str, port: int, **_: object) -> list[object]:
        return [(2, 1, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", found)


def test_one_private_address_among_public_ones_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, "8.8.8.8", "10.0.0.1")
    with pytest.raises(InvalidInput, match="not public") as caught:
        check("https://hooks.example/x")
    assert "10.0.0.1" not in str(caught.value)


def test_public_addresses_are_kept_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, "8.8.8.8", "2606:4700::1111", "8.8.8.8")
    target = check("https://hooks.example:8443/x?y=1")
    assert target.addresses == ("8.8.8.8", "2606:4700::1111")
    assert str(target.url) == "https://hooks.example:8443/x?y=1"


def test_an_allowed_host_may_be_private_and_plain() -> None:
    assert check("http://127.0.0.1:9/x", ["127.0.0.1"]).addresses == ("127.0.0.1",)
    assert check("http://LocalHost:9/x", ["localhost"]).addresses
    with pytest.raises(InvalidInput, match="https"):
        check("http://127.0.0.2:9/x", ["127.0.0.1"])
    with pytest.raises(InvalidInput, match="not public"):
        check("https://127.0.0.2:9/x", ["127.0.0.1"])


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "expected https"),
        ("hooks.example", "expected https"),
        ("ftp://hooks.example", "expected https"),
        ("file:///etc/passwd", "expected https"),
        ("https://", "expected https"),
        ("http://hooks.example/", "over https"),
        ("https://me:secret@hooks.example/", "names a user"),
        ("https://hooks.example:99999/", "no address"),
        ("https://hooks.example:0/", "no address"),
        ("https://hooks.example/\r\nHost: other", "printable"),
        ("https://hooks.example/" + "x" * 2000, "2000"),
        (f"https://{'a' * 70}.example/", "resolved"),
    ],
)
def test_what_is_no_address_is_refused(url: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        check(url)
    assert caught.value.field == "url"
    assert "secret" not in str(caught.value)


def test_a_name_that_nobody_knows_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(InvalidInput, match=r"hooks\.example cannot be resolved: Name or service"):
        check("https://hooks.example/")
