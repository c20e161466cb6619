"""Commands about studies on a server: submit, watch, list, show, steer, change, export."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tuner.cli.options import Json, Token, Url, settings_of
from tuner.cli.output import complain, duration, out, print_json, print_table, say, shown
from tuner.cli.progress import validation
from tuner.errors import InvalidInput, NotFound, TunerError

if TYPE_CHECKING:
    from tuner.client import Client
    from tuner.service import Preview, RangeTestView, StudyView, TrialView

MOST_FAILURES = 500
"""Looked at to say why trials failed."""
MOST_REASONS = 3

Study = Annotated[str, typer.Argument(metavar="STUDY", help="Its id, or its name.")]


@contextmanager
def connected(url: str | None, token: str | None) -> Iterator[Client]:
    """A client, closed at the end."""
    from tuner.client import Client

    with Client(url, token) as client:
        yield client


def submit(
    file: Annotated[Path, typer.Argument(help="A study file.")],
    watch: Annotated[bool, typer.Option("--watch", help="Show progress until it ends.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Have the server check it and show what it would try.")
    ] = False,
    url: Url = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """Posts a study to a server."""
    with connected(url, token) as client:
        if dry_run:
            preview = client.preview(file)
            if json:
                print_json(preview)
            else:
                say(f"{_bounds(preview)} in all")
                names = sorted({name for sample in preview.samples for name in sample})
                rows = [[sample.get(name) for name in names] for sample in preview.samples]
                print_table(names, rows, title="configurations it might try")
            return
        study = client.submit(file)
        if not json:
            say(f"study {study.id} ({study.name}) at {client.url}/studies/{study.id}")
        if watch:
            study = client.wait(study.id, progress=not json)
        if json:
            print_json(study)
        elif watch:
            describe(study, client.best(study.id, k=5), failures(client, study))
    if watch and study.state == "failed":
        raise TunerError(f"study {study.name} failed: {study.reason}")


def list_(
    state: Annotated[
        str | None,
        typer.Option(
            help="Only studies in this state: queued, running, paused, stopping, completed, "
            "cancelled or failed."
        ),
    ] = None,
    tag: Annotated[str | None, typer.Option(help="Only studies with this tag.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 50,
    url: Url = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """Lists studies."""
    with connected(url, token) as client:
        found = list(islice(client.studies(state=state, tag=tag), limit))
    if json:
        print_json(found)
        return
    columns = ("id", "name", "state", "task", "trials", "best", "created")
    print_table(columns, [_row(study) for study in found])


def show(
    study: Study,
    k: Annotated[int, typer.Option("--best", min=1, help="How many of the best trials.")] = 5,
    url: Url = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """Shows a study and its best trials."""
    with connected(url, token) as client:
        found = client.study(study)
        best, failed = client.best(found.id, k=k), failures(client, found)
    if json:
        print_json({"study": found, "best": best})
    else:
        describe(found, best, failed)


def log(
    study: Study,
    trial: Annotated[int, typer.Argument(min=0, help="The trial's number.")],
    attempt: Annotated[
        int | None, typer.Option(min=1, help="Which attempt; the last by default.")
    ] = None,
    tail: Annotated[int | None, typer.Option(min=0, help="Only this many last lines.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the trial ends.")] = False,
    url: Url = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """Shows what a trial's script printed."""
    if follow and (json or attempt is not None):
        raise InvalidInput("follow", "shows text of the present attempt: not --json, not --attempt")
    with connected(url, token) as client:
        found = next((t for t in client.trials(client.study(study).id) if t.number == trial), None)
        if found is None:
            raise NotFound("trial", trial)
        if json:
            print_json(client.log(found.id, attempt=attempt, tail=tail))
            return
        if follow:
            texts = client.follow(found.id, tail=tail)
        else:
            texts = iter([client.log(found.id, attempt=attempt, tail=tail).text])
        for text in texts:
            sys.stdout.write(text)
            sys.stdout.flush()


def pause(study: Study, url: Url = None, token: Token = None, json: Json = False) -> None:
    """Pauses a study; its trials keep their checkpoints."""
    _steer("pause", study, url, token, json)


def resume(study: Study, url: Url = None, token: Token = None, json: Json = False) -> None:
    """Resumes a paused study."""
    _steer("resume", study, url, token, json)


def stop(study: Study, url: Url = None, token: Token = None, json: Json = False) -> None:
    """Starts no more trials of a study; running ones finish."""
    _steer("stop", study, url, token, json)


def cancel(study: Study, url: Url = None, token: Token = None, json: Json = False) -> None:
    """Ends a study now; its running trials are dropped."""
    _steer("cancel", study, url, token, json)


def update(
    study: Study,
    changes: Annotated[
        list[str],
        typer.Option(
            "--set", help="NAME=VALUE, such as budget.trials=200 or priority=5; may be repeated."
        ),
    ],
    url: Url = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """Changes a study that runs, or lets one that ended go on with more budget."""
    given = settings_of(changes)
    with connected(url, token) as client:
        found = client.study(study)
        whole = {name: value for name, value in given.items() if "." not in name}
        for name in given.keys() - whole.keys():
            outer, _, inner = name.partition(".")
            if outer != "budget":
                raise InvalidInput("set", f"{name!r}: of a budget alone can a part be changed")
            whole[outer] = {**whole.get(outer, found.budget), inner: given[name]}
        _told(client.update(found.id, **whole), json)


def export(
    study: Study,
    kind: Annotated[
        Literal["csv", "json", "parquet"], typer.Option("--format", help="The file's format.")
    ] = "csv",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file; by default standard output.")
    ] = None,
    url: Url = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """Writes all trials of a study: parameters, values, states, times."""
    if kind == "parquet" and output is None and sys.stdout.isatty():
        raise InvalidInput("output", "parquet is binary: name a file, or pipe it on")
    with connected(url, token) as client:
        content = client.export(client.study(study).id, "json" if json else kind)
    if output is None:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
        return
    try:
        output.write_bytes(content)
    except OSError as error:
        raise InvalidInput("output", f"{output} cannot be written: {error.strerror}") from error
    complain(f"wrote {len(content)} bytes to {output}")


def failures(client: Client, study: StudyView) -> list[TrialView]:
    """Trials of a study that failed, or the first of many."""
    return list(islice(client.trials(study.id, state="fail"), MOST_FAILURES))


def describe(study: StudyView, best: list[TrialView], failed: Sequence[TrialView] = ()) -> None:
    """A study, its best trials, and why others failed, for a person."""
    counts = study.counts
    say(
        f"study {study.id} ({study.name}): {study.state}, {counts.complete} complete, "
        f"{counts.pruned} pruned, {counts.fail} failed, {counts.running} running, "
        f"{counts.waiting} waiting, {duration(study.device_seconds)} of device time"
    )
    if study.range_test is not None:
        say(f"  {ranged(study.range_test)}")
    if best:
        print_best(best)
    told = Counter(trial.reason for trial in failed).most_common(MOST_REASONS)
    for reason, count in told:
        say(f"{count} failed: {reason}")
    rest = counts.fail - sum(count for _, count in told)
    if told and rest > 0:
        say(f"and {rest} more failed")


def ranged(test: RangeTestView) -> str:
    """A study's range test in one line: how far it is, or what it found and why."""
    if test.low is None:
        return f"range test: {test.state}; trials start when it has ended"
    why = "; ".join(test.why)
    return f"range test: {test.state}, lr from {shown(test.low)} to {shown(test.high)}: {why}"


def print_best(best: list[TrialView]) -> None:
    """The best trials: value, last validation metrics, and what they were trained with."""
    measured = sorted({name for trial in best for name in validation(trial)})
    rows = [
        [
            trial.number,
            ", ".join(shown(value) for value in trial.values or ()),
            *(trial.last_metrics.get(name) for name in measured),
            trial.params,
        ]
        for trial in best
    ]
    print_table(("trial", "value", *measured, "configuration"), rows, title="best trials")


def _bounds(preview: Preview) -> str:
    """The most that a study would run; its time or a target may end it before."""
    trials, epochs = preview.trials, preview.total_epochs
    first = "no bound on trials" if trials is None else f"{trials} trials"
    return f"{first}, {'nor on' if epochs is None else f'at most {epochs:.12g}'} epochs"


def _row(study: StudyView) -> list[object]:
    best, ended = study.best.value if study.best else None, study.counts.finished
    return [study.id, study.name, study.state, study.task, ended, best, study.created_at]


def _steer(
    action: Literal["pause", "resume", "stop", "cancel"],
    study: str,
    url: str | None,
    token: str | None,
    as_json: bool,
) -> None:
    with connected(url, token) as client:
        _told(getattr(client, action)(client.study(study).id), as_json)


def _told(study: StudyView, as_json: bool) -> None:
    if as_json:
        print_json(study)
    else:
        out.print(f"study {study.id} is {study.state}", markup=False)
