"""``tuner demo``: the whole product on one machine, on real data, in a minute."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tuner
from tuner import logs
from tuner.cli.options import Home
from tuner.cli.output import err, print_json, say, shown
from tuner.cli.progress import watch
from tuner.cli.serving import serving
from tuner.cli.signals import stopping
from tuner.cli.studies import describe
from tuner.errors import Conflict, InvalidInput, NotFound, TunerError
from tuner.settings import Settings

if TYPE_CHECKING:
    from tuner.advisor import Advice
    from tuner.client import Client
    from tuner.service import StudyView, TrialView


def demo(
    file: Annotated[Path | None, typer.Argument(help="A study file; digits by default.")] = None,
    port: Annotated[int | None, typer.Option(help="The port to bind; 0 takes a free one.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Local workers; by default as `serve` starts.")
    ] = None,
    leave: Annotated[
        bool, typer.Option("--exit", help="End when the study does; so does CI=true.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, then end.")
    ] = False,
    home: Home = None,
) -> None:
    """Starts a server and workers, tunes a real model, and shows the dashboard."""
    from tuner.client import Client, load

    settings = Settings.read(host="127.0.0.1", port=port, workers=workers, home=home)
    log = settings.home / "demo.log"
    settings.make_home()
    try:
        opened = log.open("a", encoding="utf-8")
    except OSError as error:
        raise InvalidInput("home", f"{log} cannot be written: {error.strerror}") from error
    stop = stopping()
    with opened as stream:
        # The terminal belongs to the live view.
        logs.configure(settings.log_level, as_json=settings.log_json, stream=stream)
        with (
            serving(settings, auth=False, stop=stop, worker_log=log) as url,
            Client(url) as client,
        ):
            # A name of its own, so that the example can still be submitted beside it.
            spec = load(file) if file else {**load(example()), "name": "demo"}
            study = client.submit(named(client, spec))
            err.print(f"study {study.id} at {url}/studies/{study.id}, log in {log}\n", markup=False)
            study = watch(lambda: client.study(study.id), stop=stop, quiet=json)
            best = client.best(study.id, k=5)
            advice = doubled(client, best)
            if json:
                print_json({"study": study, "best": best, "advice": advice, "url": url})
            else:
                report(study, best, advice)
                say(f"\ndashboard: {url}/studies/{study.id}")
            if not (json or leave or settings.in_ci or stop.is_set()):
                say("serving until Ctrl-C")
                stop.wait()
    if study.state == "failed":
        raise TunerError(f"the study failed; the log is in {log}")


def report(study: StudyView, best: list[TrialView], advice: Advice | str | None) -> None:
    """What came out, for a person."""
    say("")
    describe(study, best)
    if isinstance(advice, str):
        say(f"\nadvisor: {advice}")
    elif advice is not None:
        say("\nadvisor, on doubling the batch size of the best:")
        say(advice.brief())


def doubled(client: Client, best: list[TrialView]) -> Advice | str | None:
    """What the advisor says about training the best configuration at twice its batch size."""
    if not best or "batch_size" not in best[0].config:
        return None
    try:
        return client.advice(best[0].study_id, 2 * int(best[0].config["batch_size"]))
    except TunerError as error:
        return str(error)


def named(client: Client, spec: dict[str, Any]) -> dict[str, Any]:
    """The study under a name that is free: names are unique, and a demo is run again."""
    name = str(spec.get("name", "demo"))
    for number in range(1, 10_000):
        candidate = name if number == 1 else f"{name}-{number}"
        try:
            client.study(candidate)
        except NotFound:
            return {**spec, "name": candidate}
    raise Conflict(f"all names like {name} are taken", name=shown(name))


def example() -> Path:
    """The study file of the demo: in the source tree, or in the installed package."""
    package = Path(tuner.__file__).resolve().parent
    for folder in (package / "_examples", package.parent / "examples"):
        if (folder / "digits.yaml").is_file():
            return folder / "digits.yaml"
    raise NotFound("example", "digits.yaml")
