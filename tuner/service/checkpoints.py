"""Checkpoints that nothing will be resumed from: their folders are removed when a study is over.

Workers remove what they know to be finished; what early stopping set aside is nobody's by then, and
a worker that died may have saved what nobody was told of. One that still trains when its study ends
may save once more before it hears of that, so folders are looked at again a little later.

What a trial had saved that failed because its workers died stays until its study is deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from datetime import timedelta

from tuner import folders
from tuner.queue.leases import LEASE_EXPIRED
from tuner.service.context import Context
from tuner.storage import checkpoints as stored
from tuner.storage.checkpoints import Saved

log = logging.getLogger(__name__)

BATCH = 500
"""Folders removed between two looks at the database."""
LATE = timedelta(minutes=1)
"""How much later than its time a study's end may be seen: clocks differ, transactions take time."""
AGAIN = 2 * LATE
"""When folders are looked at again: all have heard of the study's end, and it is seen no more."""


def sweep(ctx: Context) -> None:
    """Removes the folders of all trials whose study has ended, and forgets where they were.

    A folder that cannot be reached (it lies on a worker's own disk, or is gone) is logged and left.
    """
    now, since = ctx.now(), ctx.swept_at
    with ctx.db.session() as session:
        new = stored.ended(session, since or now - LATE) - ctx.leftovers.keys()
    for study_id in new:
        await_leftovers(ctx, study_id, ())
    while True:
        with ctx.db.session() as session:
            found = stored.in_vain(session, since, BATCH, keep=LEASE_EXPIRED)
        if not found:
            break
        by_study: dict[int, list[Saved]] = {}
        for saved in found:
            by_study.setdefault(saved.study_id, []).append(saved)
        for study_id, mine in by_study.items():
            await_leftovers(ctx, study_id, delete(mine))
            new.add(study_id)
        with ctx.db.write() as session:
            stored.forget(session, [saved.trial_id for saved in found])
    ctx.swept_at = now - LATE
    again = {study_id for study_id, (_, due) in list(ctx.leftovers.items()) if due <= now}
    clear(ctx, new | again)
    for study_id in again:
        del ctx.leftovers[study_id]


def await_leftovers(ctx: Context, study_id: int, roots: Collection[str]) -> None:
    """Has a study that is over looked at again, here and where the server's own checkpoints are."""
    own = ctx.settings.checkpoints
    known, _ = ctx.leftovers.get(study_id, (frozenset() if own is None else {own}, None))
    ctx.leftovers[study_id] = (frozenset({*known, *roots}), ctx.now() + AGAIN)


def clear(ctx: Context, study_ids: Collection[int]) -> None:
    """Removes all that is left in the folders of those of some studies that are over."""
    if not study_ids:
        return
    with ctx.db.session() as session:
        over = stored.over(session, study_ids, keep=LEASE_EXPIRED)
    for root in {root for study_id in over for root in ctx.leftovers[study_id][0]}:
        mine = {i: kept for i, kept in over.items() if root in ctx.leftovers[i][0]}
        try:
            folders.clear_studies(root, mine)
        except Exception as error:  # a file system's driver raises what it likes, or is missing
            log.warning("checkpoints in %s were not deleted: %s", root, error)


def delete(found: Iterable[Saved]) -> set[str]:
    """Removes trials' folders, as far as they can be reached and are what they should be.

    Returns:
        The roots that they were in.
    """
    roots = set()
    for saved in found:
        place = folders.holding(saved.uri, saved.study_id, saved.number)
        if place is None:
            log.info("checkpoint %s is not this trial's own file, so it stays", saved.uri)
            continue
        root, folder = place
        try:
            folders.clear(folder)
        except Exception as error:
            log.warning("checkpoint %s was not deleted: %s", saved.uri, error)
        else:
            roots.add(root)
    return roots
