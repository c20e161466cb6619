"""Waiting, as a process starts, for what it needs: it may be starting too."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_delay,
    stop_when_event_set,
    wait_random_exponential,
)

from tuner.errors import Unavailable

T = TypeVar("T")

log = logging.getLogger(__name__)


def patiently(call: Callable[[], T], *, seconds: float, stop: threading.Event) -> T:
    """What a call returns once what it needs is there; says once that it waits, and for what.

    Args:
        call: May raise ``Unavailable``, and can be repeated.
        seconds: After this long it is not tried again.
        stop: Ends the wait.

    Raises:
        Unavailable: It still was not there.
    """

    def say(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if state.attempt_number == 1 and error is not None:
            log.warning("%s (%s); waiting for %g s at most", error, _cause(error), seconds)

    return Retrying(
        retry=retry_if_exception_type(Unavailable),
        stop=stop_after_delay(seconds) | stop_when_event_set(stop),
        wait=wait_random_exponential(multiplier=0.5, max=10.0),
        sleep=sleep_using_event(stop),
        before_sleep=say,
        reraise=True,
    )(call)


def _cause(error: BaseException) -> str:
    """The first thing that went wrong, in its own words."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).partition("\n")[0] or type(error).__name__
