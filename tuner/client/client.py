"""The client itself: studies and their results."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tuner.advisor import Advice, Fit
from tuner.advisor.critical_batch import CriticalBatch
from tuner.client.datasets import Datasets
from tuner.client.operating import Operating
from tuner.client.own_loop import OwnLoop
from tuner.client.progress import drawing
from tuner.errors import InvalidInput, NotFound, Unavailable
from tuner.service import (
    EventView,
    LogView,
    MeasurementView,
    Preview,
    RangeEvidence,
    StudyView,
    TrialView,
)
from tuner.spec.files import read_yaml

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Spec = Mapping[str, Any] | str | Path
AGAIN_SECONDS = 1.0
"""How long to wait before a stream that ended without news is asked for again."""


class Client(OwnLoop, Datasets, Operating):
    """Talks to one server. Threads may share it.

    Args:
        url: The server; by default ``TUNER_URL``, else http://127.0.0.1:8420.
        token: What to show; by default ``TUNER_TOKEN``.
        inner: Another way to reach the server, for an application in the same process.
    """

    # Studies

    def submit(self, spec: Spec) -> StudyView:
        """Posts a study: a mapping, or the path of a study file.

        Raises:
            InvalidInput: A field is wrong; it is named, and nothing was stored.
        """
        return self._read(StudyView, "POST", "studies", json=load(spec), named=True)

    def preview(self, spec: Spec) -> Preview:
        """What a study would do, without storing it: size, ten sample configurations, epochs."""
        return self._read(Preview, "POST", "studies/preview", json=load(spec), repeatable=True)

    def study(self, study: int | str) -> StudyView:
        """A study by its id or its name."""
        if isinstance(study, int) or study.isdecimal():
            return self._read(StudyView, "GET", f"studies/{study}")
        for found in self._pages(StudyView, "studies", {"text": study}):
            if found.name == study:
                return found
        raise NotFound("study", study)

    def studies(
        self, *, state: str | None = None, tag: str | None = None, text: str | None = None
    ) -> Iterator[StudyView]:
        """All studies, the newest first."""
        return self._pages(StudyView, "studies", {"state": state, "tag": tag, "text": text})

    def update(self, study: int, **changes: object) -> StudyView:
        """Changes a study that runs, or lets one that ended go on: ``budget={"trials": 200, ...}``.

        Takes ``name``, ``priority``, ``max_concurrent``, ``tags``, ``description``, ``budget`` and
        ``space``, each whole and as a study file has it.
        """
        return self._read(StudyView, "PATCH", f"studies/{study}", json=changes, repeatable=True)

    def pause(self, study: int) -> StudyView:
        """Holds a study; its trials keep their checkpoints."""
        return self._read(StudyView, "POST", f"studies/{study}/pause", repeatable=True)

    def resume(self, study: int) -> StudyView:
        """Lets a paused study go on."""
        return self._read(StudyView, "POST", f"studies/{study}/resume", repeatable=True)

    def stop(self, study: int) -> StudyView:
        """Starts no more trials; those that run finish."""
        return self._read(StudyView, "POST", f"studies/{study}/stop", repeatable=True)

    def cancel(self, study: int) -> StudyView:
        """Ends a study now."""
        return self._read(StudyView, "POST", f"studies/{study}/cancel", repeatable=True)

    def delete(self, study: int) -> None:
        """Removes a study with its trials."""
        self._transport.call("DELETE", f"studies/{study}", repeatable=True)

    # Results

    def trials(
        self, study: int, *, state: str | None = None, sort: str = "number", order: str = "asc"
    ) -> Iterator[TrialView]:
        """All trials of a study."""
        query = {"state": state, "sort": sort, "order": order}
        return self._pages(TrialView, f"studies/{study}/trials", query)

    def trial(self, trial: int) -> TrialView:
        """One trial by id."""
        return self._read(TrialView, "GET", f"trials/{trial}")

    def measurements(self, trial: int) -> list[MeasurementView]:
        """What was measured of a trial, step by step."""
        return self._read(list[MeasurementView], "GET", f"trials/{trial}/measurements")

    def log(
        self, trial: int, *, attempt: int | None = None, after: int = 0, tail: int | None = None
    ) -> LogView:
        """What a trial's script printed: all that is kept, what is new, or the last lines."""
        query = {"attempt": attempt, "after": after, "tail": tail}
        return self._read(LogView, "GET", f"trials/{trial}/log", params=query)

    def follow(
        self, trial: int, *, tail: int | None = None, poll_seconds: float = 1.0
    ) -> Iterator[str]:
        """A trial's log as it grows, over all its attempts; ends with the trial."""
        view = self.log(trial, tail=tail)
        yield view.text
        over = False
        while not over:
            over = view.ended  # one more look then: a script says a few words after its last step
            time.sleep(poll_seconds)
            view = self.log(trial, after=view.cursor)
            yield view.text

    def best(self, study: int, *, k: int | None = None) -> list[TrialView]:
        """The ``k`` best trials, one unless given; with several objectives, of the Pareto front.

        All of the front unless ``k`` is given; the best by the first objective come first.
        """
        return self._read(list[TrialView], "GET", f"studies/{study}/best", params={"k": k})

    def enqueue(self, study: int, configs: Sequence[Mapping[str, Any]]) -> list[TrialView]:
        """Asks for trials of given configurations."""
        body = {"configs": [dict(config) for config in configs]}
        return self._read(list[TrialView], "POST", f"studies/{study}/trials", json=body, named=True)

    def stop_trial(self, trial: int) -> TrialView:
        """Ends a trial; what was measured stays."""
        return self._read(TrialView, "POST", f"trials/{trial}/stop", repeatable=True)

    def retry_trial(self, trial: int) -> TrialView:
        """Asks for a failed trial's configuration once more, as a new trial."""
        return self._read(TrialView, "POST", f"trials/{trial}/retry", named=True)

    def trials_frame(self, study: int) -> pd.DataFrame:
        """One row a trial: number, state, value, a column a hyperparameter (``params.lr``)."""
        import pandas as pd  # noqa: PLC0415  (a second to load, and few callers need it)

        rows = [
            {
                "number": trial.number,
                "state": trial.state,
                "value": trial.value,
                "step": trial.step,
                "reason": trial.reason,
                **{f"params.{name}": value for name, value in trial.params.items()},
                **{f"metrics.{name}": v for name, v in trial.last_metrics.items()},
                "device_seconds": trial.device_seconds,
                "id": trial.id,
            }
            for trial in self.trials(study)
        ]
        return pd.DataFrame(rows)

    def figure(self, study: int, name: str = "history") -> go.Figure:
        """A figure of the study, ready to show in a notebook."""
        import plotly.graph_objects as go  # noqa: PLC0415  (slow to load, and few callers need it)

        drawn = self._transport.call("GET", f"studies/{study}/figures/{name}").json()
        return go.Figure(drawn, skip_invalid=True)

    def importances(self, study: int) -> dict[str, float]:
        """How much each hyperparameter matters for being among the best; they add up to 1."""
        answer = self._transport.call("GET", f"studies/{study}/importances").json()
        return dict(answer["importances"])

    def export(self, study: int, kind: Literal["csv", "json", "parquet"] = "csv") -> bytes:
        """All trials as a file's content."""
        query = {"format": kind}
        return self._transport.call("GET", f"studies/{study}/export", params=query).content

    def scale(self, config: Mapping[str, Any], batch: int, **options: object) -> Advice:
        """What the advisor says about moving a configuration to another batch size.

        Args:
            config: At least ``lr`` and ``batch_size``.
            batch: The new batch size.
            options: ``optimizer``, ``rule``, ``fixed``, ``noise_scale`` and ``studies``.
        """
        body = {"config": dict(config), "batch": batch, **options}
        answer = self._transport.call("POST", "advisor/scale", json=body, repeatable=True)
        return Advice.from_dict(answer.json())

    def advice(self, study: int, batch: int, **options: object) -> Advice:
        """What the advisor says about moving a study's best trial to another batch size.

        Args:
            study: The study, whose trials and noise scale are the evidence.
            batch: The new batch size.
            options: ``trial`` (a number), ``fixed`` and ``rule``.
        """
        query = {name: value for name, value in options.items() if value is not None}
        answer = self._transport.call(
            "GET", f"studies/{study}/advice", params={"batch": batch, **query}
        )
        return Advice.from_dict(answer.json())

    def fit(self, *studies: int, optimizer: str | None = None) -> Fit:
        """The best learning rate against the batch size, by the finished trials of studies."""
        body = {"studies": list(studies), "optimizer": optimizer}
        answer = self._transport.call("POST", "advisor/fit", json=body, repeatable=True)
        return Fit.from_dict(answer.json())

    def critical(self, *studies: int, target: float) -> CriticalBatch:
        """Where more samples a step stop saving steps, by how soon trials reach a target."""
        body = {"studies": list(studies), "target": target}
        answer = self._transport.call("POST", "advisor/critical", json=body, repeatable=True)
        return CriticalBatch.from_dict(answer.json())

    def range_test(self, study: int) -> RangeEvidence:
        """The range test before a study's first trial, with the curve that it was read from.

        Raises:
            NotFound: The study has none.
        """
        return self._read(RangeEvidence, "GET", f"studies/{study}/range")

    def events(self, study: int, *, after: int = 0) -> Iterator[EventView]:
        """What happens to a study, as it happens; ends when the study does.

        A broken connection is taken up again where it broke; where the study was ended and had its
        budget raised, it goes on with what came after.
        """
        seen = after
        while True:
            # Looked at first: all that an ended study has left to tell is told at once.
            over = self.study(study).over
            before = seen
            try:
                for event in self._listen(study, seen):
                    if event is None:  # a sign of life: nothing happens at the moment
                        if self.study(study).over:
                            break
                        continue
                    seen = event.id
                    yield event
            except Unavailable:
                over = False
            if seen == before:
                if over:
                    return
                time.sleep(AGAIN_SECONDS)

    def wait(
        self,
        study: int,
        *,
        progress: bool = True,
        poll_seconds: float = 1.0,
        timeout_seconds: float | None = None,
    ) -> StudyView:
        """Blocks until a study has ended.

        Args:
            study: Its id.
            progress: Whether to draw a progress bar.
            poll_seconds: How often to look.
            timeout_seconds: After so long, return the study as it is then.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        with drawing(progress) as draw:
            while True:
                view = self.study(study)
                draw(view)
                late = deadline is not None and time.monotonic() >= deadline
                if view.over or late:
                    return view
                time.sleep(poll_seconds)

    def _listen(self, study: int, after: int) -> Iterator[EventView | None]:
        """Events after an id as the server tells them; None is a sign of life without news."""
        headers = {"accept": "text/event-stream", "last-event-id": str(after)}
        data: list[str] = []
        for line in self._transport.stream(f"studies/{study}/events", headers=headers):
            if line.startswith("data:"):
                data.append(line.removeprefix("data:").removeprefix(" "))
            elif line.startswith(": ping"):
                yield None
            elif not line and data:
                yield EventView.model_validate_json("\n".join(data))
                data.clear()


def load(spec: Spec) -> dict[str, Any]:
    """A study as a mapping; a path is read as YAML.

    Raises:
        InvalidInput: The file cannot be read, or does not hold a mapping.
    """
    if isinstance(spec, Mapping):
        return dict(spec)
    found = read_yaml(spec)
    if not isinstance(found, dict):
        raise InvalidInput("file", f"{spec} holds no study: expected fields such as name and task")
    return found
