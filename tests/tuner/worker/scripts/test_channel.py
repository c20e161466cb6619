"""The worker's end of the channel, with lines that ``tuner.trial`` would never send."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.tuner.worker.scripts.processes import listening
from tuner.worker.scripts.channel import LONGEST_LINE, MOST_CONNECTIONS, Channel, Said

GOOD = b'{"step": 1, "metrics": {"a": 1}}\n'


class Worker:
    """Answers whatever makes sense, and notes it."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, dict[str, float]]] = []

    def __call__(self, said: Said) -> None:
        self.heard.append((said.step, said.metrics))
        said.answer(stop=False)


def connected(path: Path) -> socket.socket:
    other = socket.socket(socket.AF_UNIX)
    other.settimeout(60)
    other.connect(str(path))
    return other


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"loss=1\n",
        b"[]\n",
        b'{"step": 1}\n',
        b'{"step": "1", "metrics": {"a": 1}}\n',
        b'{"step": true, "metrics": {"a": 1}}\n',
        b'{"step": 0, "metrics": {"a": 1}}\n',
        b'{"step": 99999999999, "metrics": {"a": 1}}\n',
        b'{"step": 1, "metrics": {}}\n',
        b'{"step": 1, "metrics": {"a": "1"}}\n',
        b'{"step": 1, "metrics": {"": 1}}\n',
        b'{"step": 1, "metrics": ' + b"[" * 100_000 + b"\n",
        b"\xff\xfe\n",
    ],
    ids=lambda line: repr(line[:30]),
)
def test_lines_that_say_nothing_are_refused(tmp_path: Path, line: bytes) -> None:
    worker = Worker()
    with listening(tmp_path / "s", worker), connected(tmp_path / "s") as other:
        other.sendall(line)
        assert b'"error"' in other.recv(1 << 16)
        other.sendall(GOOD)
        assert other.recv(1 << 16) == b'{"stop": false}\n'
    assert worker.heard == [(1, {"a": 1.0})]


def test_lines_come_in_pieces_and_together(tmp_path: Path) -> None:
    worker = Worker()
    with listening(tmp_path / "s", worker), connected(tmp_path / "s") as other:
        other.sendall(GOOD[:10])
        other.sendall(GOOD[10:] + GOOD.replace(b"1", b"2"))
        answers = b""
        while answers.count(b"\n") < 2:
            answers += other.recv(1 << 16)
    assert [step for step, _ in worker.heard] == [1, 2]


def test_a_line_without_end_is_cut_off(tmp_path: Path) -> None:
    with listening(tmp_path / "s", Worker()), connected(tmp_path / "s") as other:
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            other.sendall(b"x" * (64 * LONGEST_LINE))
        with connected(tmp_path / "s") as another:
            another.sendall(GOOD)
            assert another.recv(1 << 16)


def test_connections_are_bounded(tmp_path: Path) -> None:
    with listening(tmp_path / "s", Worker()):
        others = [connected(tmp_path / "s") for _ in range(MOST_CONNECTIONS)]
        for other in others:
            other.sendall(GOOD)
            assert other.recv(1 << 16)
        with connected(tmp_path / "s") as one_more:
            assert one_more.recv(1) == b""
        for other in others:
            other.close()
        with connected(tmp_path / "s") as later:
            later.sendall(GOOD)
            assert later.recv(1 << 16)


def test_those_that_have_ended_make_room_for_who_came_before_it_was_heard(tmp_path: Path) -> None:
    channel = Channel(tmp_path / "s")
    others = []
    for _ in range(MOST_CONNECTIONS):
        others.append(connected(tmp_path / "s"))
        channel.hear(10)
    with connected(tmp_path / "s") as later:
        for other in others:
            other.close()
        later.sendall(GOOD)
        said = [one for _ in range(2) for one in channel.hear(10)]
        assert [one.step for one in said] == [1]
        said[0].answer(stop=False)
        assert later.recv(1 << 16)
    channel.close()
