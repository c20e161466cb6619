"""The words a worker and the service exchange, the same over HTTP and inside one process.

A worker speaks to a *gateway* with a handful of calls; one implementation is the HTTP client, the
other calls ``tuner.service``. One request a round carries all slots' measurements up, and the stops
and refills down.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Protocol
from uuid import uuid4

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tuner.spaces.parse import LARGEST_INT
from tuner.tasks import TaskForm

# What the columns of every database hold.
Id = Annotated[int, Field(ge=1, lt=2**63)]
Step = Annotated[int, Field(lt=2**31)]


def _held(value: str | int | float | bool | None) -> str | int | float | bool | None:
    if isinstance(value, int) and abs(value) > LARGEST_INT:
        raise ValueError("is a whole number beyond 2^53, which no model holds exactly")
    return value


Scalar = Annotated[str | int | float | bool | None, AfterValidator(_held)]
Config = dict[str, Scalar | list[Any]]

LOG_BYTES = 256 * 1024
"""What is kept of the log of one attempt of a trial, unless its worker is told otherwise."""
LEAST_LOG_BYTES, MOST_LOG_BYTES = 1024, 16 * 2**20
LARGEST_PIECE = 64 * 1024
"""Bytes of a log that travel in one piece."""


class Message(BaseModel):
    """A value on the wire; NaN and infinity travel as they are.

    The service refuses unknown fields, workers pass over them: servers are replaced first. A list
    of any length is refused at its first wrong item (``fail_fast``): the errors of a megabyte of
    them took gigabytes, and a minute in which nobody else was answered.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class Request(Message):
    """A message with a name of its own, so that it is answered as before when it is sent again."""

    key: str = Field(
        default_factory=lambda: uuid4().hex,
        min_length=1,
        max_length=64,
        description="The sender's name for this request; another one for each request.",
    )


class WorkerHello(Request):
    """Who a worker is when it registers."""

    name: str = Field(max_length=255, examples=["gpu-3"])
    device: dict[str, Any] = Field(default_factory=dict, description="kind, name, memory")
    tasks: list[str] = Field(
        min_length=1, fail_fast=True, description="Tasks it can train.", examples=[["digits"]]
    )
    slots: int = Field(default=1, ge=1, le=65536, description="Trials it can hold at once.")
    forms: list[TaskForm] = Field(
        default_factory=list, max_length=1000, description="Of tasks that a server may not have."
    )


class Registration(Message):
    """The server's answer: the id to use, and how long a lease lives without a sign of life."""

    worker_id: int
    lease_seconds: float
    heartbeat_seconds: float


class Checkpoint(Message):
    """Where the state of a trial was saved, and how far that is."""

    uri: str
    step: Step = Field(ge=0)
    samples: int | None = Field(
        default=None, ge=0, lt=2**63, description="Training samples seen, within a step too."
    )


class Leased(Message):
    """A trial handed to a worker, with all that training it takes."""

    trial_id: int
    study_id: int
    number: int
    attempt: int
    token: str = Field(description="Every later write about this trial carries it.")
    task: str
    task_params: dict[str, Any] = Field(default_factory=dict)
    config: Config = Field(description="Constants of the space and suggested values together.")
    seed: int = Field(description="Initialisation and dropout.")
    data_seed: int = Field(description="The order of the data: the study's seed.")
    start: int = Field(ge=0, description="Step to resume after; 0 starts from scratch.")
    until: int = Field(ge=1, description="Step at which the service decides next.")
    max_step: int = Field(ge=1, description="Steps of a full training.")
    epochs_per_step: float = Field(default=1.0, gt=0)
    checkpoint: Checkpoint | None = Field(default=None, description="State to start from, if any.")
    metrics: list[str] = Field(description="What reports must carry.")
    device_seconds: float = Field(
        default=0.0, ge=0, description="What it has taken so far, from which reports count on."
    )


class Probe(Message):
    """A study's range test, handed to a worker before the study's first trial.

    The rate rises by a constant factor from ``low`` to ``high``, one optimizer step a rate, in one
    population of which each slot has a seed of its own.
    """

    study_id: int
    token: str = Field(description="Every later word about this probe carries it.")
    task: str
    task_params: dict[str, Any] = Field(default_factory=dict)
    config: Config = Field(description="What is trained; it has no learning rate.")
    low: float = Field(gt=0)
    high: float = Field(gt=0)
    steps: int = Field(ge=1)
    seeds: int = Field(ge=1)


class ProbeReport(Message):
    """What became of a probe: the worker measures, the service judges."""

    study_id: Id
    token: str
    outcome: Literal["measured", "failed", "returned"]
    """``returned`` hands it back (shutdown); it waits for another worker."""
    losses: list[Annotated[list[float | None], Field(max_length=10_000, fail_fast=True)]] = Field(
        default_factory=list,
        max_length=64,
        fail_fast=True,
        description="Loss after each step, a row a seed; null where it was not finite.",
    )
    reason: str | None = Field(default=None, description="oom, or an error's text.")
    seconds: float = Field(default=0.0, ge=0, le=1e9, description="That the device was busy.")


Tasks = Annotated[
    Annotated[list[str], Field(fail_fast=True)] | None,
    Field(
        description="What fits beside the trials that are held; none: any of the worker's. When a "
        "study of another task has its turn, nothing is handed out, so that what is held drains.",
    ),
]


class LeaseRequest(Request):
    """Asks for up to ``k`` trials; ``prefer`` names the study whose population has room."""

    k: int = Field(ge=1, le=65536)
    prefer: Id | None = None
    tasks: Tasks = None


class Measured(Message):
    """The numbers of one evaluation of one trial."""

    step: Step = Field(ge=1, description="Evaluation periods completed, from 1.")
    metrics: dict[str, float | None] = Field(
        description="By name; null where it was not finite. An objective that is null ends the "
        "trial as diverged.",
        examples=[{"val_loss": 0.31, "val_accuracy": 0.91}],
    )
    samples: int | None = Field(
        default=None, ge=0, lt=2**63, description="Training samples seen so far."
    )
    seconds: float | None = Field(
        default=None, ge=0, description="Device seconds of the trial so far, over all its attempts."
    )


class SlotReport(Message):
    """All there is to say of one leased trial after a round."""

    trial_id: Id
    token: str
    measurements: list[Measured] = Field(default_factory=list, fail_fast=True)
    outcome: Literal["", "complete", "fail", "returned"] = ""
    """``returned`` hands the trial back unfinished (shutdown); it waits for another worker."""
    reason: str | None = Field(default=None, description="diverged, oom, or an error's text.")
    checkpoint: Checkpoint | None = None


class Printed(Message):
    """A stretch of what a trial's script has printed since its lease began."""

    trial_id: Id
    token: str
    start: int = Field(ge=0, lt=2**62, description="Bytes printed before it.")
    size: int = Field(ge=0, le=LARGEST_PIECE, description="Bytes that it was printed as.")
    text: str = Field(max_length=LARGEST_PIECE)
    keep: int = Field(
        default=LOG_BYTES,
        ge=LEAST_LOG_BYTES,
        le=MOST_LOG_BYTES,
        description="Bytes to keep of an attempt's log: a quarter of them from its beginning, the "
        "rest from its end.",
    )


class Report(Request):
    """One request a round: every slot's news, and how many trials to send back."""

    slots: list[SlotReport] = Field(fail_fast=True)
    probe: ProbeReport | None = None
    printed: list[Printed] = Field(
        default_factory=list,
        fail_fast=True,
        description="Logs of scripts; stored before anything is decided.",
    )
    refill: int = Field(
        default=0,
        ge=-65536,
        le=65536,
        description="Trials wanted besides one for each slot that the verdicts free; "
        "negative to end with fewer.",
    )
    prefer: Id | None = None
    tasks: Tasks = None
    status: dict[str, Any] = Field(default_factory=dict, description="engine, samples/s, memory")


class SlotVerdict(Message):
    """What to do with one reported trial."""

    trial_id: int
    action: Literal["continue", "pause", "stop", "finish", "lost"]
    """``lost``: the lease was not this worker's any more; drop the slot, report nothing of it."""
    until: int = 0
    reason: str | None = None


class ReportAnswer(Message):
    """The verdicts, in the order of the report, and new trials for the slots that are now free."""

    verdicts: list[SlotVerdict]
    leased: list[Leased]
    probe: Probe | None = None
    drain: bool = Field(
        default=False, description="Take no more trials: someone drains this worker."
    )


class LeaseAnswer(Message):
    """Trials now held by the worker, or a probe that comes before them; neither: nothing waits."""

    leased: list[Leased]
    probe: Probe | None = None
    drain: bool = False


class Heartbeat(Message):
    """A sign of life that renews the leases it names."""

    held: dict[Id, str] = Field(default_factory=dict, description="Trial id to lease token.")
    probes: dict[Id, str] = Field(default_factory=dict, description="Study id to lease token.")
    status: dict[str, Any] = Field(default_factory=dict)


class HeartbeatAnswer(Message):
    """What to drop: its lease is lost, or its study was cancelled or stopped it."""

    drop: list[int] = Field(default_factory=list, description="Trials.")
    drop_probes: list[int] = Field(default_factory=list, description="Studies.")
    drain: bool = False


class PoolBeat(Message):
    """How a pool of workers stands that something else places."""

    name: str = Field(
        min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$", examples=["ray"]
    )
    driver: str = Field(max_length=64, description="Chosen anew by each start of the driver.")
    first: bool = Field(default=False, description="It has just started and takes the pool over.")
    last: bool = Field(default=False, description="It ends, and its workers with it.")
    running: int = Field(ge=0, le=65536, description="Workers that it has.")
    fits: int = Field(ge=0, le=65536, description="Workers that there is room for.")


class PoolAnswer(Message):
    """How many workers are wanted, and how often to ask."""

    wanted: int | None = Field(description="null: as many as fit.")
    heartbeat_seconds: float


class Gateway(Protocol):
    """How a worker reaches the service.

    Every call may raise ``Unavailable``, and is safe to repeat with the same message: what it gave
    the first time it gives again, and nothing more.
    """

    def register(self, hello: WorkerHello) -> Registration:
        """Introduces the worker."""

    def lease(self, worker_id: int, request: LeaseRequest) -> LeaseAnswer:
        """Takes up to ``request.k`` trials."""

    def report(self, worker_id: int, report: Report) -> ReportAnswer:
        """Delivers a round's news."""

    def heartbeat(self, worker_id: int, beat: Heartbeat) -> HeartbeatAnswer:
        """Renews leases."""

    def leave(self, worker_id: int) -> None:
        """Says goodbye; what it still held waits for others."""

    def fetch(self, sha256: str, target: Path) -> None:
        """Writes the uploaded dataset with this checksum into a new file."""
