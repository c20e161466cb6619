"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Url = Annotated[
    str | None, typer.Option(help="The server; else TUNER_URL, else http://127.0.0.1:8420.")
]
Token = Annotated[
    str | None, typer.Option(help="The token to show; better in TUNER_TOKEN, out of the history.")
]
DatabaseUrl = Annotated[
    str | None, typer.Option("--database-url", help="The database; else TUNER_DATABASE_URL.")
]
Home = Annotated[
    Path | None, typer.Option(help="Folder of database, checkpoints and logs; else TUNER_HOME.")
]
