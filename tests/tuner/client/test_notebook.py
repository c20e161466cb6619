"""The client in a notebook that a real kernel runs: a bar, a frame and a figure come out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.installation import PATIENCE_SECONDS
from tuner.cli.serving import serving
from tuner.settings import Settings

CELLS = [
    """
from tuner.client import Client
client = Client(URL)
study = client.submit({
    "name": "<notebook>",
    "objective": {"metric": "loss", "direction": "minimize"},
    "space": {"lr": {"type": "float", "low": 0.01, "high": 1.0}},
    "sampler": "random", "pruner": "none", "budget": {"trials": 3, "epochs": 1},
})
while asked := client.ask(study.id):
    with client.held(asked):
        client.report(asked[0], 1, loss=asked[0].config["lr"])
""",
    "client.wait(study.id).state",
    "client.trials_frame(study.id).sort_values('value')",
    "client.figure(study.id, 'history')",
]


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    settings = Settings.read(
        home=tmp_path, database_url=f"sqlite:///{tmp_path}/t.sqlite", port=0, workers=0
    )
    with serving(settings, auth=False, stop=threading.Event()) as found:
        yield found


# Jupyter's own libraries warn of where they will look for files in some future version.
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_a_study_in_a_notebook(url: str) -> None:
    cells = [nbformat.v4.new_code_cell(cell.replace("URL", repr(url))) for cell in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=PATIENCE_SECONDS, kernel_name="python3").execute()
    outputs: list[list[dict[str, Any]]] = [
        [output.get("data", {}) for output in cell.outputs] for cell in notebook.cells
    ]
    _, waited, frame, figure = outputs
    (bar,) = [data["text/html"] for data in waited if "text/html" in data]
    assert '<progress style="width: 20em" value="3" max="3">' in bar
    assert "&lt;notebook&gt;: completed: 3 of 3 trials" in bar
    assert waited[-1]["text/plain"] == "'completed'"
    assert "<table" in frame[-1]["text/html"]
    assert "params.lr" in frame[-1]["text/html"]
    drawn = figure[-1]["application/vnd.plotly.v1+json"]
    assert drawn["data"]
