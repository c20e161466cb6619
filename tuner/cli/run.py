"""``tuner run FILE``: a study without a server, in the same tables; run again, it goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuner import logs
from tuner.cli.options import Config, DatabaseUrl, Home, Json
from tuner.cli.output import err, print_json, say, shown
from tuner.cli.progress import watch
from tuner.cli.signals import stopping
from tuner.cli.studies import MOST_FAILURES, describe
from tuner.errors import InvalidInput, TunerError
from tuner.settings import Settings

if TYPE_CHECKING:
    from tuner.service import Context, StudyView
    from tuner.spec import StudySpec

ACTOR = "tuner run"
MOST_DIFFERENCES = 2
"""Fields that are named where a study differs from its file."""
LONGEST = 60
"""Characters of a value in that sentence."""


def run(
    file: Annotated[Path, typer.Argument(help="A study file.")],
    seed: Annotated[
        int | None, typer.Option(help="A seed in place of the file's: other weights and order.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, cuda:1, ...; auto takes every GPU there is.")
    ] = "auto",
    processes: Annotated[
        int | None,
        typer.Option(
            min=1, help="Workers; by default one a GPU, or one a core up to 8. More share a GPU."
        ),
    ] = None,
    slots: Annotated[
        int | None, typer.Option(min=1, help="Trials trained at once; measured by default.")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="Another task: MODULE:CLASS; may be repeated.")
    ] = None,
    config: Config = None,
    database_url: DatabaseUrl = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Runs a study here and now, without a server.

    Ctrl-C saves what runs; the same command goes on from there.
    """
    from tuner import service
    from tuner.cli.task import load
    from tuner.service import outbox
    from tuner.spec import StudySpec
    from tuner.storage import migrate
    from tuner.webhooks import Sender
    from tuner.worker.scripts.config import scripts_of

    for path in task or []:
        load(path)
    settings = Settings.read(home=home, database_url=database_url, log_level="warning")
    scripts = scripts_of(config, settings.home)
    settings.make_home()
    logs.configure(settings.log_level, as_json=settings.log_json)
    spec = StudySpec.from_yaml(file)
    if seed is not None:
        spec = StudySpec.parse({**spec.to_dict(), "seed": seed})
    migrate.prepare(settings.database_url)
    context = service.Context.open(
        settings.database_url,
        settings=service.ServiceSettings(home=settings.home, checkpoints=settings.checkpoint_root),
    )
    try:
        service.offer_tasks(context, [script.form(name) for name, script in scripts.items()])
        study = taken_up(context, spec)
        stop = stopping()
        if not study.over:
            options: dict[str, Any] = {
                "device": device,
                "processes": processes,
                "slots": slots,
                "tasks": task or [],
                "home": settings.home,
                "checkpoints": settings.checkpoints,
                "scripts": scripts,
                "save_seconds": settings.checkpoint_seconds,
            }
            study = trained(context, study.id, stop, options, quiet=json)
            # What fails now waits for a server on this database.
            outbox.deliver(context, Sender(settings.webhook_hosts))
        best = service.best(context, study.id, k=5)
        failed = service.list_trials(context, study.id, state="fail", limit=MOST_FAILURES).items
    finally:
        context.close()
    if json:
        print_json({"study": study, "best": best})
    else:
        describe(study, best, failed)
        if not study.over:
            say("interrupted; the same command goes on from here")
    if study.state == "failed":
        raise TunerError(f"study {study.name} failed: {study.reason}")
    if not study.over:
        raise typer.Exit(130)


def taken_up(context: Context, spec: StudySpec) -> StudyView:
    """The study of that name, submitted if there is none.

    Raises:
        InvalidInput: There is one of that name that differs.
    """
    from tuner import service

    found = service.find_study(context, spec.name)
    if found is None:
        return service.submit(context, spec, actor=ACTOR)
    differing = differences(context, found, spec)
    if differing:
        said = "; ".join(differing[:MOST_DIFFERENCES])
        rest = len(differing) - MOST_DIFFERENCES
        more = f"; and {rest} more" if rest > 0 else ""
        raise InvalidInput(
            "name",
            f"study {found.id} is named {spec.name!r} too and differs ({said}{more}); "
            "choose another name",
        )
    if found.state == "paused":
        return service.resume_study(context, found.id, actor=ACTOR)
    if found.over:
        err.print(f"study {found.id} has run before, nothing is left to do", markup=False)
    else:
        err.print(f"going on with study {found.id}", markup=False)
    return found


def differences(context: Context, found: StudyView, spec: StudySpec) -> list[str]:
    """In which fields a stored study is not what this file asks for, and how."""
    from tuner import service
    from tuner.spec import StudySpec, resolve

    stored = resolve(StudySpec.parse(found.spec)).spec
    return list(_differing(stored.to_dict(), service.preview(context, spec).spec, ""))


def _differing(there: Any, here: Any, field: str) -> Iterator[str]:
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in [*there, *(key for key in here if key not in there)]:
            at = f"{field}.{key}" if field else key
            yield from _differing(there.get(key), here.get(key), at)
    elif there != here:
        yield f"{field}: {_brief(there)} there, {_brief(here)} here"


def _brief(value: object) -> str:
    text = "nothing" if value is None else shown(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def trained(
    context: Context, study: int, stop: threading.Event, options: dict[str, Any], *, quiet: bool
) -> StudyView:
    """Trains a study in this process, drawing it, until it ends or ``stop`` is set."""
    from tuner import service
    from tuner.worker.local import run_study

    failed: list[BaseException] = []
    done = threading.Event()

    def work() -> None:
        try:
            run_study(context, study, stop=stop, **options)
        except BaseException as error:
            failed.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=work, name="worker")
    thread.start()
    watch(lambda: service.show_study(context, study), stop=done, quiet=quiet)
    # Finished or not, the worker is left to save its slots and hand them back.
    thread.join()
    if failed:
        raise failed[0]
    return service.show_study(context, study)
