"""Posts messages to their webhooks, each within a bounded time; threads may post at once."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import httpx

from tuner import __version__
from tuner.errors import InvalidInput
from tuner.webhooks.signing import sign
from tuner.webhooks.targets import Target, check

CONNECT_SECONDS = 5.0
TOTAL_SECONDS = 10.0
"""For one message, from the name's resolution to the answer's first line."""


@dataclass(frozen=True)
class Outgoing:
    """A message on its way.

    Args:
        url: Where to.
        secret: The receiver's, to sign with.
        message: The message's id.
        body: What it says.
    """

    url: str
    secret: str
    message: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What became of an attempt.

    Args:
        status: What the receiver answered, if it did.
        error: Why the message counts as not delivered; None: it was.
    """

    status: int | None = None
    error: str | None = None


class Sender:
    """Sends to public addresses, and to the hosts it was allowed.

    Certificates are checked against certifi's authorities, or those that ``SSL_CERT_FILE`` names.
    Proxies of the environment are not used, since what they resolve cannot be looked at here.

    Args:
        allowed: Hosts that may be private and need no TLS.
        now: The time that is signed, in seconds since 1970.
    """

    def __init__(self, allowed: Collection[str] = (), now: Callable[[], float] = time.time) -> None:
        self._allowed = tuple(allowed)
        self._now = now
        self._tls: ssl.SSLContext | None = None

    def __call__(self, message: Outgoing) -> Outcome:
        """One attempt; never raises for what a receiver does."""
        return asyncio.run(self._send(message))

    async def _send(self, message: Outgoing) -> Outcome:
        if self._tls is None:
            self._tls = httpx.create_ssl_context()  # slow: once, and not before it is needed
        async with httpx.AsyncClient(
            verify=self._tls,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(TOTAL_SECONDS, connect=CONNECT_SECONDS),
            # A connection kept open is found again by its address, and one address may serve
            # many names: the next message could go to whom another's certificate spoke for.
            limits=httpx.Limits(max_keepalive_connections=0),
            headers={"user-agent": f"tuner/{__version__}"},
        ) as client:
            return await self._attempt(client, message)

    async def _attempt(self, client: httpx.AsyncClient, message: Outgoing) -> Outcome:
        try:
            async with asyncio.timeout(TOTAL_SECONDS):
                target = await asyncio.to_thread(check, message.url, self._allowed)
                return await self._post(client, target, message)
        except InvalidInput as error:
            return Outcome(error=error.message)
        except (TimeoutError, httpx.TimeoutException):
            return Outcome(error=f"no answer within {TOTAL_SECONDS:g} s")
        except httpx.HTTPError as error:
            return Outcome(error=str(error) or type(error).__name__)

    async def _post(self, client: httpx.AsyncClient, target: Target, message: Outgoing) -> Outcome:
        """Connects to the first of the checked addresses that takes a connection."""
        for address in target.addresses[:-1]:
            try:
                return await self._post_to(client, target, address, message)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        return await self._post_to(client, target, target.addresses[-1], message)

    async def _post_to(
        self, client: httpx.AsyncClient, target: Target, address: str, message: Outgoing
    ) -> Outcome:
        body = json.dumps(message.body, separators=(",", ":")).encode()
        timestamp = int(self._now())
        headers = {
            "host": target.url.netloc.decode("ascii"),
            "content-type": "application/json",
            "webhook-id": message.message,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(message.secret, message.message, timestamp, body),
        }
        # The name is in the header and in the TLS handshake; the connection goes to the address.
        async with client.stream(
            "POST",
            target.url.copy_with(host=address),
            content=body,
            headers=headers,
            extensions={"sni_hostname": target.url.raw_host.decode("ascii")},
        ) as answer:
            status = answer.status_code  # its body is of no use, and may never end
        if answer.is_success:
            return Outcome(status)
        if answer.is_redirect:
            return Outcome(status, f"answered {status}; redirects are not followed")
        return Outcome(status, f"answered {status}")
