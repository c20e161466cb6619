"""Signatures of messages: HMAC-SHA256 over id, time and body, as Standard Webhooks writes it.

The time is signed, so that a message that somebody recorded cannot be played again later; the id
is, so that a receiver may trust it to drop what it had before.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

PREFIX = "whsec_"
SECRET_BYTES = 32


def new_secret() -> str:
    """A secret for one receiver."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def sign(secret: str, message: str, timestamp: int, body: bytes) -> str:
    """The signature header of a message.

    Args:
        secret: As :func:`new_secret` made it.
        message: Its id.
        timestamp: When it is sent, in whole seconds since 1970.
        body: What is sent, to the byte.
    """
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = f"{message}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
