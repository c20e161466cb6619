"""Signatures: what the library of Standard Webhooks, which is not ours, makes of them."""

from __future__ import annotations

import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tuner.webhooks import new_secret, sign

BODY = '{"type":"study.completed"}'


def headers(secret: str, timestamp: int) -> dict[str, str]:
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(secret, "msg_1", timestamp, BODY.encode()),
    }


def test_the_published_example() -> None:
    """From the specification's own libraries."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    signed = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_any_library_verifies_them() -> None:
    secret, now = new_secret(), int(time.time())
    receiver = Webhook(secret)
    assert receiver.verify(BODY, headers(secret, now)) == {"type": "study.completed"}
    with pytest.raises(WebhookVerificationError):
        receiver.verify(BODY.replace("completed", "failed"), headers(secret, now))
    with pytest.raises(WebhookVerificationError):
        receiver.verify(BODY, {**headers(secret, now), "webhook-id": "msg_2"})
    with pytest.raises(WebhookVerificationError):
        receiver.verify(BODY, headers(new_secret(), now))
    with pytest.raises(WebhookVerificationError):
        receiver.verify(BODY, headers(secret, now - 3600))


def test_secrets_differ_and_are_long() -> None:
    assert len({new_secret() for _ in range(100)}) == 100
    assert len(new_secret()) == len("whsec_") + 44
