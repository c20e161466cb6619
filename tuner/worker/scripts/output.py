"""What a run has printed, read from its supervisor's files, and sent on piece by piece."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from pathlib import Path

from tuner.protocol import LARGEST_PIECE

PARTS = 4
"""A log is kept in so many parts: the first, and the last ones."""
MOST_PIECES = 4
"""Pieces sent at once."""
LONGEST_LINE = 300
"""Characters of a last line that are worth telling."""


@dataclass(frozen=True)
class Piece:
    """A stretch of the log, as :class:`tuner.protocol.Printed` tells it."""

    start: int
    size: int
    text: str


class Output:
    """The log of one run.

    Args:
        folder: Where the supervisor writes it.
        keep: Bytes of it that are kept.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.segment = max(1, keep // PARTS)
        self.tail = PARTS - 1
        self._unheard: list[Piece] = []
        self._read_to = 0

    def news(self, *, final: bool = False) -> list[Piece]:
        """What has not arrived: the next pieces, which :meth:`told` then marks as arrived.

        Those that were given before are given again as they were, so that one whose arrival nobody
        heard of is known when it comes a second time.

        Args:
            final: Whether nothing more is printed, so that a character cut short stays so.
        """
        at = self._read_to
        while len(self._unheard) < MOST_PIECES:
            at = self._begin(at)
            data = self._read(at)
            decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
            text = decoder.decode(data)
            used = len(data) - len(decoder.getstate()[0])
            if final and data and not used:
                text, used = decoder.decode(b"", final=True), len(data)
            if not used:
                break
            self._unheard.append(Piece(at, used, text))
            at += used
            self._read_to = at
        return list(self._unheard)

    def told(self, end: int) -> None:
        """Everything up to this many bytes has arrived."""
        self._unheard = [piece for piece in self._unheard if piece.start >= end]

    def last_line(self) -> str:
        """The last line that says something, shortened; empty where there is none."""
        numbers = self._files()
        data = b"".join((self.folder / f"log.{n}").read_bytes() for n in numbers[-2:])
        lines = [line.strip() for line in data.decode(errors="replace").splitlines()[-50:]]
        said = [line for line in lines if line and not line.startswith("$ ")]
        return said[-1][:LONGEST_LINE] if said else ""

    def _files(self) -> list[int]:
        return sorted(int(path.suffix[1:]) for path in self.folder.glob("log.*"))

    def _begin(self, at: int) -> int:
        """``at``, or where the next file begins that is still there."""
        later = [n for n in self._files() if n >= at // self.segment]
        return at if not later else max(at, later[0] * self.segment)

    def _read(self, at: int) -> bytes:
        """A stretch from ``at`` on, over the end of a file where the next one is there."""
        data = b""
        while len(data) < LARGEST_PIECE:
            index, skip = divmod(at + len(data), self.segment)
            try:
                with (self.folder / f"log.{index}").open("rb") as file:
                    file.seek(skip)
                    part = file.read(LARGEST_PIECE - len(data))
            except FileNotFoundError:
                return data
            data += part
            if skip + len(part) < self.segment:
                return data
        return data
