"""Optuna's calls about studies."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from sqlalchemy import select, update
from sqlalchemy.orm import InstrumentedAttribute

from tuner.errors import Conflict
from tuner.storage import events, studies
from tuner.storage.engine import Database
from tuner.storage.events import NewEvent
from tuner.storage.models import Study
from tuner.storage.optuna import frozen
from tuner.storage.optuna.history import History, directions, metrics

NAME_PREFIX = "no-name-"
"""What Optuna calls a study that was given no name, before a UUID."""
METRIC_NAMES_KEY = "study:metric_names"
"""The system attribute from which Optuna's figures take the names of objectives."""


class StudyCalls(BaseStorage):
    """The part of :class:`tuner.storage.SqlStorage` that is about studies."""

    database: Database
    _history: History

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        """See the base class."""
        name = f"{NAME_PREFIX}{uuid.uuid4()}" if study_name is None else study_name
        now = datetime.now(UTC)
        try:
            with self.database.write() as session:
                study = Study(
                    name=name,
                    state="running",
                    directions=[direction.name.lower() for direction in directions],
                    created_at=now,
                    started_at=now,
                )
                session.add(study)
                session.flush()
                return study.id
        except Conflict as error:
            raise DuplicatedStudyError(f"there is a study named {name!r} already") from error

    def delete_study(self, study_id: int) -> None:
        """See the base class."""
        with self.database.write() as session:
            query = select(Study.name).where(Study.id == study_id).with_for_update()
            name = session.scalar(query)
            if name is None:
                raise _no_study(study_id)
            studies.delete(session, study_id)
            told = NewEvent("study.deleted", study_id, data={"name": name})
            events.add(session, [told], None, datetime.now(UTC))
        self._history.forget(study_id)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """See the base class."""
        self._set_study_attr(Study.user_attrs, study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """See the base class."""
        self._set_study_attr(Study.system_attrs, study_id, key, value)

    def get_study_id_from_name(self, study_name: str) -> int:
        """See the base class."""
        with self.database.session() as session:
            study_id = session.scalar(select(Study.id).where(Study.name == study_name))
        if study_id is None:
            raise KeyError(f"there is no study named {study_name!r}")
        return study_id

    def get_study_name_from_id(self, study_id: int) -> str:
        """See the base class."""
        return cast("str", self._study_column(Study.name, study_id))

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """See the base class."""
        known = self._history.directions(study_id)
        return known or directions(self._study_column(Study.directions, study_id))

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """See the base class."""
        return cast(
            "dict[str, Any]", frozen.decoded(self._study_column(Study.user_attrs, study_id))
        )

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """See the base class."""
        with self.database.session() as session:
            row = session.execute(
                select(Study.system_attrs, Study.spec).where(Study.id == study_id)
            ).first()
        if row is None:
            raise _no_study(study_id)
        return _system_attrs(*row)

    def get_all_studies(self) -> list[FrozenStudy]:
        """See the base class."""
        with self.database.session() as session:
            rows = session.execute(
                select(
                    Study.id,
                    Study.name,
                    Study.directions,
                    Study.user_attrs,
                    Study.system_attrs,
                    Study.spec,
                ).order_by(Study.id)
            ).all()
        return [
            FrozenStudy(
                study_name=row.name,
                direction=None,
                directions=directions(row.directions),
                user_attrs=frozen.decoded(row.user_attrs),
                system_attrs=_system_attrs(row.system_attrs, row.spec),
                study_id=row.id,
            )
            for row in rows
        ]

    def _study_column(self, column: InstrumentedAttribute[Any], study_id: int) -> Any:
        with self.database.session() as session:
            row = session.execute(select(column).where(Study.id == study_id)).first()
        if row is None:
            raise _no_study(study_id)
        return row[0]

    def _set_study_attr(
        self, column: InstrumentedAttribute[dict[str, Any]], study_id: int, key: str, value: Any
    ) -> None:
        with self.database.write() as session:
            row = session.execute(
                select(column).where(Study.id == study_id).with_for_update()
            ).first()
            if row is None:
                raise _no_study(study_id)
            attrs = row[0] | {key: frozen.encoded(value)}
            session.execute(update(Study).where(Study.id == study_id).values({column: attrs}))


def _no_study(study_id: int) -> KeyError:
    return KeyError(f"there is no study {study_id}")


def _system_attrs(stored: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    """The attributes Optuna stored, and the objectives' names for its figures."""
    attrs: dict[str, Any] = frozen.decoded(stored)
    names = metrics(spec)
    if names:
        attrs.setdefault(METRIC_NAMES_KEY, names)
    return attrs
