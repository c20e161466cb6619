"""Webhooks on the wire: where they may go, how they are signed, how they are sent.

Messages have the form of https://www.standardwebhooks.com, so that any library for it verifies
them. What is sent, when, and how often again, is the service's business.
"""

from tuner.webhooks.sender import Outcome, Outgoing, Sender
from tuner.webhooks.signing import new_secret, sign
from tuner.webhooks.targets import Target, check, host_of

__all__ = ["Outcome", "Outgoing", "Sender", "Target", "check", "host_of", "new_secret", "sign"]
