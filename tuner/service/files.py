"""Which files a study may name: the server and its workers open them with their own rights."""

from __future__ import annotations

from pathlib import Path

from tuner.errors import InvalidInput
from tuner.service.context import Context
from tuner.spec import StudySpec
from tuner.spec.datasets import reference
from tuner.tasks import TaskForm

SETTING = "TUNER_DATA_ROOTS"


def check_files(ctx: Context, spec: StudySpec, form: TaskForm | None) -> None:
    """Refuses a study that names a file outside the folders meant for data.

    Links are followed before the comparison, as they are when the file is opened.

    Args:
        ctx: The service.
        spec: The study.
        form: What is known of its task.

    Raises:
        InvalidInput: Names the parameter. Whether there is such a file is not said.
    """
    roots = ctx.settings.data_roots
    if roots is None or spec.task is None or form is None:
        return
    allowed = [root.resolve() for root in roots]
    for name in form.files:
        given = spec.task.params.get(name)
        if given is None or reference(given) is not None:
            continue
        field = f"task.params.{name}"
        if not isinstance(given, str):
            raise InvalidInput(field, f"{given!r} is no path")
        try:
            path = Path(given).resolve()
        except (OSError, ValueError, RuntimeError) as error:  # a loop of links, a null byte
            raise InvalidInput(field, f"{given!r} is no usable path") from error
        if not any(path.is_relative_to(root) for root in allowed):
            folders = ", ".join(map(str, allowed)) or "no folder"
            raise InvalidInput(
                field,
                f"{given!r} is outside the folders for data of this server ({folders}); "
                f"whoever runs it can add one with {SETTING}",
            )
