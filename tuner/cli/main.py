"""The root command, and what becomes of errors: one line on standard error and an exit code.

Exit codes: 0 done; 1 it failed; 2 the input is wrong; 130 interrupted.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from tuner import __version__
from tuner.cli import (
    advise,
    audit,
    database,
    datasets,
    demo,
    run,
    server,
    studies,
    task,
    tokens,
    webhooks,
    worker,
    workers,
)
from tuner.cli.collecting import collecting_seldom
from tuner.cli.output import complain
from tuner.errors import InvalidInput, TunerError

app = typer.Typer(
    name="tuner",
    help="Self-hosted hyperparameter tuning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tuner {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Self-hosted hyperparameter tuning."""


app.command()(demo.demo)
app.command()(server.serve)
app.command()(worker.worker)
app.command()(run.run)
app.command()(studies.submit)
app.command("studies")(studies.list_)
app.command()(studies.show)
app.command()(studies.log)
app.command()(studies.pause)
app.command()(studies.resume)
app.command()(studies.stop)
app.command()(studies.cancel)
app.command()(studies.update)
app.command()(studies.export)
app.command()(audit.audit)
app.add_typer(advise.app, name="advise")
app.add_typer(task.app, name="task")
app.add_typer(workers.app, name="workers")
app.add_typer(datasets.app, name="dataset")
app.add_typer(tokens.app, name="token")
app.add_typer(webhooks.app, name="webhook")
app.add_typer(database.app, name="db")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the entry point of the ``tuner`` script.

    Returns:
        The exit code.
    """
    command = typer.main.get_command(app)
    atexit.register(gc.freeze)  # else Python looks through all there is once more, for a second
    try:
        with collecting_seldom():
            code = command.main(
                args=list(sys.argv[1:] if arguments is None else arguments),
                prog_name="tuner",
                standalone_mode=False,
            )
    except InvalidInput as error:
        complain(str(error))
        return 2
    except TunerError as error:
        complain(str(error))
        return 1
    except typer.TyperException as error:
        complain(error.format_message())
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # The reader has gone (`tuner studies | head`); nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code if isinstance(code, int) else 0
