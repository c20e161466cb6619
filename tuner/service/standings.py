"""How far each study is, counted over its trials once for every revision.

Each change of a trial takes the study's next revision, so what was counted at one holds until the
next: of a page of studies only those that move are counted again, and ten dashboards that look at
one study count it once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from tuner.storage import tallies
from tuner.storage.studies import StudyRow
from tuner.storage.tallies import Counts


@dataclass(frozen=True)
class Standing:
    """One study's trials, counted.

    Args:
        counts: By state.
        steps: Evaluation periods that they have behind them.
        best_id: The best complete trial; None: there is none, or several objectives.
    """

    counts: Counts
    steps: int
    best_id: int | None


class Standings:
    """What one process has counted; threads share it.

    Args:
        size: Studies that are remembered.
    """

    def __init__(self, size: int = 5000) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._known: OrderedDict[int, tuple[int, Standing]] = OrderedDict()

    def of(self, session: Session, rows: Sequence[StudyRow]) -> dict[int, Standing]:
        """The standing of each study; those that are not known are counted in a few statements."""
        found: dict[int, Standing] = {}
        with self._lock:
            for study in rows:
                known = self._known.get(study.id)
                if known is not None and known[0] == study.revision:
                    found[study.id] = known[1]
        missing = [study for study in rows if study.id not in found]
        if not missing:
            return found
        ids = [study.id for study in missing]
        counts, steps = tallies.counts(session, ids), tallies.steps(session, ids)
        best = tallies.best_ids(session, missing)
        with self._lock:
            for study in missing:
                standing = Standing(counts[study.id], steps.get(study.id, 0), best.get(study.id))
                found[study.id] = standing
                self._known[study.id] = (study.revision, standing)
                self._known.move_to_end(study.id)
            while len(self._known) > self._size:
                self._known.popitem(last=False)
        return found
