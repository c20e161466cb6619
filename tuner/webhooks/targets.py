"""Where a webhook may go: public addresses over TLS, and hosts that were allowed by name.

A server that posts to any address it is given can be made to reach what only it can reach: other
services of its network, or a cloud's metadata. So names are resolved here, every address is
looked at, and the sender connects to one of those, not to the name again, which might by then lead
elsewhere (DNS rebinding).
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import httpx

from tuner.errors import InvalidInput

SETTING = "TUNER_WEBHOOK_HOSTS"
LONGEST = 2000
NAT64 = IPv6Network("64:ff9b::/96")
UNICAST = IPv6Network("2000::/3")
"""All that IPv6 has given out to the public internet."""
NOT_PUBLIC = (
    IPv4Network("168.63.129.16/32"),  # a cloud's own services; its holder routes it nowhere else
    IPv4Network("192.0.0.0/24"),  # IETF's protocols, and a cloud's metadata
    IPv4Network("192.88.99.0/24"),  # relays of 6to4, which are no more
    IPv6Network("3fff::/20"),  # documentation
)
"""What ``ipaddress`` takes for public, for its tables are as old as the Python that runs."""

Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Target:
    """An address that may be posted to.

    Attributes:
        url: As it was given.
        addresses: What its host resolved to, all of them checked.
    """

    url: httpx.URL
    addresses: tuple[str, ...]


def check(url: str, allowed: Collection[str] = ()) -> Target:
    """Resolves a webhook's address and looks at where it leads.

    Args:
        url: Where to post.
        allowed: Hosts, by name or by address, that may be private and need no TLS.

    Raises:
        InvalidInput: It is no address of a webhook, cannot be resolved now, or leads somewhere
            private.
    """
    parsed = _parsed(url)
    host = host_of(url)
    trusted = host in {name.lower() for name in allowed}
    if parsed.scheme != "https" and not trusted:
        raise InvalidInput(
            "url", f"messages go over https; {SETTING} can name hosts that need none"
        )
    addresses = _resolved(host, parsed.port or {"http": 80, "https": 443}[parsed.scheme])
    for address in addresses:
        if not (trusted or is_public(ip_address(address))):
            # The address itself is not said: this must not be a way to ask an inner name server.
            raise InvalidInput(
                "url",
                f"{host} leads to an address that is not public; "
                f"whoever runs the server can allow it with {SETTING}",
            )
    return Target(parsed, addresses)


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet, whatever it is wrapped in."""
    if isinstance(address, IPv6Address):
        inner = _inner(address)
        if inner is not None:
            return is_public(inner)
        if address not in UNICAST:
            return False
    if any(address in network for network in NOT_PUBLIC):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


def _inner(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that a gateway or the system's own stack would make of it."""
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if address.teredo is not None:
        return address.teredo[1]
    return address.ipv4_mapped or address.sixtofour


def host_of(url: str) -> str:
    """The host that an address names, as it is resolved."""
    return httpx.URL(url).raw_host.decode("ascii").lower()


def _parsed(url: str) -> httpx.URL:
    if not url.isprintable() or len(url) > LONGEST:
        raise InvalidInput("url", f"expected at most {LONGEST} printable characters")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidInput("url", f"{url!r} is no address: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidInput("url", f"expected https://HOST/PATH, got {url!r}")
    if parsed.port is not None and not 0 < parsed.port < 2**16:
        raise InvalidInput("url", f"{url!r} is no address: there is no such port")
    if parsed.userinfo:
        raise InvalidInput(
            "url", "names a user: the address is shown to others, a signature is not"
        )
    return parsed


def _resolved(host: str, port: int) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "this is no name"
        raise InvalidInput("url", f"{host} cannot be resolved: {reason}") from error
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
