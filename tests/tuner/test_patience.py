"""Waiting for what is starting too."""

from __future__ import annotations

import io
import threading

import pytest

from tuner import logs
from tuner.errors import Unauthorized, Unavailable
from tuner.patience import patiently


class Starting:
    """Is there from the call with this number on."""

    def __init__(self, ready: int) -> None:
        self.ready = ready
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls < self.ready:
            raise Unavailable("no server answers") from ConnectionRefusedError("refused\nat once")
        return "there"


def test_it_waits_and_says_so_once() -> None:
    stream = io.StringIO()
    logs.configure("info", as_json=False, stream=stream)
    starting = Starting(4)
    assert patiently(starting, seconds=60.0, stop=threading.Event()) == "there"
    (line,) = stream.getvalue().splitlines()
    assert "no server answers (refused); waiting for 60 s at most" in line


def test_it_does_not_wait_for_ever() -> None:
    starting = Starting(10**6)
    with pytest.raises(Unavailable, match="no server answers"):
        patiently(starting, seconds=0.0, stop=threading.Event())
    assert starting.calls == 1


def test_it_stops_when_it_is_told_to() -> None:
    stop = threading.Event()
    starting = Starting(10**6)

    def call() -> str:
        stop.set()
        return starting()

    with pytest.raises(Unavailable):
        patiently(call, seconds=3600.0, stop=stop)
    assert starting.calls == 1


def test_what_waiting_does_not_mend_is_said_at_once() -> None:
    def wrong() -> None:
        raise Unauthorized("this token is wrong")

    with pytest.raises(Unauthorized):
        patiently(wrong, seconds=3600.0, stop=threading.Event())
