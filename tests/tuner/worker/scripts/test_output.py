"""The log of a run as it is sent on: every byte once, whole characters, gaps where files went."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tuner.worker.scripts.output import Output, Piece
from tuner.worker.scripts.supervisor import Log


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(tmp_path, 40)


@pytest.fixture
def log(output: Output) -> Iterator[Log]:
    opened = Log(output.folder, output.segment, output.tail)
    yield opened
    opened.close()


def sent(output: Output, *, final: bool = False) -> list[Piece]:
    pieces = output.news(final=final)
    for piece in pieces:
        output.told(piece.start + piece.size)
    return pieces


def test_what_is_not_told_is_news_again(output: Output, log: Log) -> None:
    assert output.news() == []
    log.write(b"one ")
    assert output.news() == output.news() == [Piece(0, 4, "one ")]
    output.told(4)
    assert output.news() == []
    log.write(b"two")
    assert sent(output) == [Piece(4, 3, "two")]


def test_a_piece_that_may_have_arrived_is_not_cut_anew(output: Output, log: Log) -> None:
    log.write(b"one ")
    first = output.news()
    log.write(b"two")
    assert output.news() == [*first, Piece(4, 3, "two")]
    output.told(4)
    assert output.news() == [Piece(4, 3, "two")]


def test_pieces_go_over_the_ends_of_files(output: Output, log: Log) -> None:
    log.write(b"0123456789" * 2 + b"abc")
    assert sent(output) == [Piece(0, 23, "01234567890123456789abc")]


def test_a_character_is_never_cut(output: Output, log: Log) -> None:
    snow = "\N{SNOWMAN}".encode()
    log.write(b"12345678" + snow[:1])
    assert sent(output) == [Piece(0, 8, "12345678")]
    assert sent(output) == []
    log.write(snow[1:] + snow[:2])  # over the end of the first file
    assert sent(output) == [Piece(8, 3, "\N{SNOWMAN}")]
    assert sent(output, final=True) == [Piece(11, 2, "\N{REPLACEMENT CHARACTER}")]


def test_bytes_that_are_no_text_are_replaced(output: Output, log: Log) -> None:
    log.write(b"\xff\xfea\n")
    assert sent(output) == [Piece(0, 4, "\N{REPLACEMENT CHARACTER}" * 2 + "a\n")]


def test_a_reader_that_is_late_finds_beginning_and_end(output: Output, log: Log) -> None:
    for i in range(20):
        log.write(f"line {i:04}\n".encode())
    assert len(list(output.folder.iterdir())) == 5
    first, last = sent(output)
    assert (first.start, first.text) == (0, "line 0000\n")
    assert last.start == 160
    assert last.text.splitlines() == [f"line {i:04}" for i in range(16, 20)]


def test_the_last_line_is_the_last_that_says_something(output: Output, log: Log) -> None:
    assert output.last_line() == ""
    log.write(b"$ x\n")
    assert output.last_line() == ""
    log.write(b"boom\n \n\n")
    assert output.last_line() == "boom"
