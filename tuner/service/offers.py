"""Which tasks there are: those installed here, and those that workers have told of.

A worker registers what it can train, and a study can name nothing else: no request brings code.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.orm import Session

from tuner import tasks
from tuner.errors import UnknownName
from tuner.service.context import Context
from tuner.spec import StudySpec
from tuner.storage import offers
from tuner.tasks import TaskForm


def offer_tasks(ctx: Context, forms: Sequence[TaskForm]) -> None:
    """Remembers what a worker says of its tasks; those installed here need no description."""
    new = {f.name: f.model_dump(mode="json") for f in forms if f.name not in tasks.registry}
    if new:
        with ctx.db.write() as session:
            offers.put(session, new, ctx.now())


def list_tasks(ctx: Context) -> list[TaskForm]:
    """Every task that a study can name, by name."""
    found = {name: TaskForm.of(task) for name, task in tasks.registry.items()}
    with ctx.db.session() as session:
        for name, form in offers.every(session).items():
            if name not in found:
                found[name] = TaskForm.model_validate(form)
    return [found[name] for name in sorted(found)]


def form_of(session: Session, spec: StudySpec) -> TaskForm | None:
    """What is known of a study's task: by its code, else by what workers say; None: it has none.

    Raises:
        UnknownName: Nobody has such a task.
    """
    if spec.task is None:
        return None
    if spec.task.name in tasks.registry:
        return TaskForm.of(tasks.get(spec.task.name))
    form = offers.get(session, spec.task.name)
    if form is None:
        known = sorted({*tasks.registry.names(), *offers.every(session)})
        raise UnknownName("task", spec.task.name, known, "task.name")
    return TaskForm.model_validate(form)
