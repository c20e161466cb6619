"""What the scripts of trials printed: taken in piece by piece, kept within bounds, shown.

A log belongs to an attempt of a trial. Of a long one the beginning and the end are kept, and what
was left out between them is said in the text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from pydantic import Field
from sqlalchemy.orm import Session

from tuner.errors import InvalidInput, NotFound
from tuner.protocol import Printed
from tuner.queue import leases
from tuner.service.context import Context
from tuner.service.views import View
from tuner.storage import logs, trials
from tuner.storage.logs import NewPiece
from tuner.storage.models import LogPiece

HEAD_SHARE = 4
"""One part in so many of what is kept is the beginning."""
MOST_LINES = 1_000_000


class LogView(View):
    """What one attempt of a trial printed, or the part of it that is new."""

    trial_id: int
    attempt: int
    attempts: list[int] = Field(description="The attempts that have a log.")
    text: str
    cursor: int = Field(description="Pass it as ``after`` for what was printed since.")
    ended: bool = Field(description="Whether the trial, or the attempt asked for, is over.")


def take_logs(ctx: Context, printed: Sequence[Printed]) -> None:
    """Stores pieces of logs; each once, however often it is said.

    A run may end its log after its lease: what a script prints once it was told to stop is no
    news of the trial. A log that has not begun under a present lease is refused in silence, as the
    worker learns from the answer about the trial itself.
    """
    ids = {piece.trial_id for piece in printed}
    with ctx.db.write() as session:
        rows = trials.by_ids(session, ids)
        begun = logs.begun(session, ids)
        new: list[NewPiece] = []
        for piece in printed:
            lease = hashlib.sha256(piece.token.encode()).hexdigest()[:16]
            known = begun.get((piece.trial_id, lease))
            row = rows.get(piece.trial_id)
            if known is not None:
                attempt = known.attempt
            elif row is not None and leases.owns(row, piece.token):
                attempt = row.attempt
            else:
                continue
            if known is not None and piece.start < known.end:
                continue  # said again: what was left out since would come in again, at the end
            # A text of PostgreSQL holds every character but this one.
            text = piece.text.replace("\0", "\N{REPLACEMENT CHARACTER}")
            new.append(NewPiece(piece.trial_id, attempt, lease, piece.start, piece.size, text))
        logs.add(session, new)
        keep = {piece.trial_id: piece.keep for piece in printed}
        for trial_id, attempt in {(piece.trial_id, piece.attempt) for piece in new}:
            _trim(session, trial_id, attempt, keep[trial_id])


def _trim(session: Session, trial_id: int, attempt: int, keep: int) -> None:
    """Deletes the middle of a log that is longer than it may be."""
    sizes = logs.sizes(session, trial_id, attempt)
    surplus = sum(size for _, size in sizes) - keep
    if surplus <= 0:
        return
    seen, dropped = 0, []
    for piece_id, size in sizes[:-1]:
        if surplus <= 0:
            break
        seen += size
        if seen > keep // HEAD_SHARE:
            dropped.append(piece_id)
            surplus -= size
    logs.remove(session, dropped)


def show_log(
    ctx: Context,
    trial_id: int,
    *,
    attempt: int | None = None,
    after: int = 0,
    tail: int | None = None,
) -> LogView:
    """What an attempt of a trial printed; a trial that was no script's has an empty log.

    Args:
        ctx: The service.
        trial_id: Whose.
        attempt: Which; by default the last one that has a log.
        after: The cursor of an earlier answer: only what is new since then.
        tail: At most so many lines, the last ones.

    Raises:
        NotFound: No such trial, or no log of that attempt.
        InvalidInput: ``tail`` is no number of lines.
    """
    if tail is not None and not 0 <= tail <= MOST_LINES:
        raise InvalidInput("tail", f"{tail} is outside [0, {MOST_LINES}]")
    with ctx.db.session() as session:
        row = trials.get(session, trial_id)
        attempts = logs.attempts(session, trial_id)
        if attempt is not None and attempt not in attempts:
            raise NotFound("log of attempt", attempt)
        chosen = attempt or (attempts[-1] if attempts else row.attempt)
        pieces = logs.pieces(session, trial_id, chosen, after)
    text = "".join(_joined(pieces, after))
    if tail is not None:
        text = "".join(text.splitlines(keepends=True)[-tail:]) if tail else ""
    return LogView(
        trial_id=trial_id,
        attempt=chosen,
        attempts=attempts,
        text=text,
        cursor=pieces[-1].id if pieces else after,
        ended=row.finished or (attempt is not None and attempt < row.attempt),
    )


def _joined(pieces: Sequence[LogPiece], after: int) -> Iterator[str]:
    """The texts of those later than ``after``, with a line wherever something was left out."""
    before: LogPiece | None = None
    for piece in pieces:
        same = before is not None and before.lease == piece.lease
        end = before.start + before.size if same and before is not None else 0
        if piece.id > after:
            if piece.start > end and not (before is None and after):
                yield f"\n[... {piece.start - end} bytes left out ...]\n"
            yield piece.text
        before = piece
