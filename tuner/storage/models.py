"""The tables, typed. A study here is an Optuna study too: see ``tuner.storage.optuna``.

Parameters, distributions and attributes of a trial are JSON columns of its one row, so that a claim
of 64 trials is one statement. Each change of a trial takes the next ``revision`` of its study;
readers ask for what changed since the last one they saw.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite numbers only an INTEGER PRIMARY KEY by itself; PostgreSQL wants 64 bits.
BigId = BigInteger().with_variant(Integer(), "sqlite")

# SQLite gives the highest id out again once its row is deleted. Readers that remember ids, such as
# caches of trials and "events after", would take the new row for the old one.
NEVER_REUSED = {"sqlite_autoincrement": True}

STUDY_STATES = ("queued", "running", "paused", "stopping", "completed", "cancelled", "failed")
TRIAL_STATES = ("waiting", "running", "complete", "pruned", "fail")
FINISHED_TRIAL_STATES = ("complete", "pruned", "fail")
FINISHED_STUDY_STATES = ("completed", "cancelled", "failed")
ORIGINS = ("sampled", "enqueued", "retried", "asked", "optuna")
WORKER_STATES = ("active", "draining", "gone")
DELIVERY_STATES = ("waiting", "delivered", "failed")
PROBE_STATES = ("waiting", "running", "measured", "failed", "skipped")
OPEN_PROBE_STATES = ("waiting", "running")


def one_of(column: str, values: tuple[str, ...]) -> str:
    """The SQL of a check that ``column`` holds one of ``values``."""
    return f"{column} IN ({', '.join(repr(v) for v in values)})"


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time; SQLite keeps it without a zone, so the zone is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuses naive times: they mean a different moment on every machine."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Puts UTC back where the database dropped it."""
        if value is None or value.tzinfo is not None:
            return value
        return value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """The declarative root, with a name for every constraint so that migrations can drop them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  (SQLAlchemy's own declaration)
        datetime: UtcDateTime(),
        # An absent value is NULL in SQL too, not the JSON word null that IS NULL does not find.
        dict[str, Any]: JSON(none_as_null=True),
        list[Any]: JSON(none_as_null=True),
        list[str]: JSON(none_as_null=True),
    }


class Study(Base):
    """What a user asked for, and how far it is. ``spec`` is the accepted study file."""

    __tablename__ = "studies"
    __table_args__ = (
        CheckConstraint(one_of("state", STUDY_STATES), name="state"),
        NEVER_REUSED,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(255), unique=True)
    state: Mapped[str] = mapped_column(String(16), default="queued", index=True)
    spec: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """The study file as accepted; empty for a study that Optuna made through our storage."""
    directions: Mapped[list[str]]
    owner: Mapped[str | None] = mapped_column(String(255))
    tags: Mapped[list[str]] = mapped_column(default=list)
    priority: Mapped[int] = mapped_column(default=0)
    max_concurrent: Mapped[int | None]
    revision: Mapped[int] = mapped_column(BigInteger, default=0)
    """Counts changes of its trials; the row's lock also puts suggestions of one study in order."""
    next_number: Mapped[int] = mapped_column(default=0)
    device_seconds: Mapped[float] = mapped_column(default=0.0)
    active_seconds: Mapped[float] = mapped_column(default=0.0)
    """Wall seconds in state running, up to ``active_since``; a budget of seconds counts these."""
    active_since: Mapped[datetime | None]
    """None also while it rests: those who held its trials handed them back, or fell silent."""
    reason: Mapped[str | None] = mapped_column(Text)
    lr_range: Mapped[dict[str, Any] | None]
    """The range of lr that its probe ended with, ``{"low", "high"}``: it takes the place of that of
    ``spec``. NULL where there is no probe, or while it is open."""
    user_attrs: Mapped[dict[str, Any]] = mapped_column(default=dict)
    system_attrs: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Probe(Base):
    """A study's range test: what a worker measures, under a lease, before the first trial.

    There is one for each study that asks for it. It is kept when it has ended, as the evidence for
    the range that the study searches.
    """

    __tablename__ = "probes"
    __table_args__ = (
        CheckConstraint(one_of("state", PROBE_STATES), name="state"),
        CheckConstraint("(lease_token IS NULL) = (lease_expires_at IS NULL)", name="lease_whole"),
        CheckConstraint("(lease_token IS NULL) = (state <> 'running')", name="lease_running"),
    )

    study_id: Mapped[int] = mapped_column(
        ForeignKey("studies.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    state: Mapped[str] = mapped_column(String(16), default="waiting")
    within: Mapped[bool]
    """Whether the range of the study file is never left, since somebody wrote it."""
    attempt: Mapped[int] = mapped_column(default=1)
    worker_id: Mapped[int | None] = mapped_column(ForeignKey("workers.id", ondelete="SET NULL"))
    """The present holder, or the last one."""
    lease_token: Mapped[str | None] = mapped_column(String(64))
    lease_expires_at: Mapped[datetime | None]
    reason: Mapped[str | None] = mapped_column(Text)
    """Why it did not measure anything."""
    result: Mapped[dict[str, Any] | None]
    """What was found (``RangeTest.to_dict``), and the configuration that was trained."""
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Trial(Base):
    """One configuration on its way through training. Finished rows never change again."""

    __tablename__ = "trials"
    __table_args__ = (
        UniqueConstraint("study_id", "number"),
        CheckConstraint(one_of("state", TRIAL_STATES), name="state"),
        CheckConstraint(one_of("origin", ORIGINS), name="origin"),
        CheckConstraint("(lease_token IS NULL) = (lease_expires_at IS NULL)", name="lease_whole"),
        CheckConstraint("lease_token IS NULL OR state = 'running'", name="lease_running"),
        CheckConstraint("NOT paused OR (state = 'running' AND lease_token IS NULL)", name="paused"),
        Index("ix_trials_study_id_revision", "study_id", "revision"),
        Index("ix_trials_study_id_state", "study_id", "state"),
        Index("ix_trials_lease_expires_at", "lease_expires_at"),
        Index("ix_trials_worker_id", "worker_id"),
        NEVER_REUSED,
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"))
    number: Mapped[int]
    state: Mapped[str] = mapped_column(String(16), default="waiting")
    params: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Suggested values only; constants of the space join them in the trial's config."""
    distributions: Mapped[dict[str, Any]] = mapped_column(default=dict)
    values: Mapped[list[Any] | None]
    """One number per objective; infinities as the strings ``inf`` and ``-inf``."""
    constraint: Mapped[float | None]
    seed: Mapped[int] = mapped_column(BigInteger, default=0)
    origin: Mapped[str] = mapped_column(String(16), default="sampled")
    attempt: Mapped[int] = mapped_column(default=1)
    worker_id: Mapped[int | None] = mapped_column(ForeignKey("workers.id", ondelete="SET NULL"))
    """The present holder, or the last one."""
    lease_token: Mapped[str | None] = mapped_column(String(64))
    lease_expires_at: Mapped[datetime | None]
    last_token: Mapped[str | None] = mapped_column(String(64))
    """The lease of the holder who said its last word, and may say it again."""
    paused: Mapped[bool] = mapped_column(default=False)
    step: Mapped[int] = mapped_column(default=0)
    """Evaluation periods reported so far."""
    until: Mapped[int] = mapped_column(default=0)
    """The step at which the search decides about it next."""
    checkpoint: Mapped[dict[str, Any] | None]
    """Where its last saved state is: ``{"uri", "step", "samples", "attempt"}``."""
    lost: Mapped[dict[str, Any] | None]
    """How often holders fell silent over it since it last came further, and how far it has been:
    ``{"times", "step", "samples"}``. NULL: none did."""
    note: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """The search's own memory of why it suggested this (``Suggestion.note``)."""
    reason: Mapped[str | None] = mapped_column(Text)
    revision: Mapped[int] = mapped_column(BigInteger, default=0)
    user_attrs: Mapped[dict[str, Any]] = mapped_column(default=dict)
    system_attrs: Mapped[dict[str, Any]] = mapped_column(default=dict)
    device_seconds: Mapped[float] = mapped_column(default=0.0)
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Measurement(Base):
    """What one attempt of a trial reported at one step; the same report twice is one row."""

    __tablename__ = "measurements"
    # Kept in the order of the key, so that a curve is one stretch of the file.
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012  (SQLAlchemy's own declaration)

    trial_id: Mapped[int] = mapped_column(
        ForeignKey("trials.id", ondelete="CASCADE"), primary_key=True
    )
    attempt: Mapped[int] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[float | None]
    """The first objective; NULL when it was not finite (``metrics`` says what it was)."""
    samples: Mapped[int | None] = mapped_column(BigInteger)
    seconds: Mapped[float | None]
    """Device seconds of the trial so far, over all its attempts."""
    metrics: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """All reported numbers; those not finite as the strings ``nan``, ``inf``, ``-inf``."""
    created_at: Mapped[datetime]


class LogPiece(Base):
    """A stretch of what one run of a trial's script printed."""

    __tablename__ = "log_pieces"
    __table_args__ = (UniqueConstraint("trial_id", "lease", "start"), NEVER_REUSED)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    """In the order in which they came; readers ask for what is after the last one they saw."""
    trial_id: Mapped[int] = mapped_column(ForeignKey("trials.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    lease: Mapped[str] = mapped_column(String(16))
    """A digest of the lease's token: one lease is one run of the script."""
    start: Mapped[int] = mapped_column(BigInteger)
    """Bytes that the run had printed before it."""
    size: Mapped[int]
    """Bytes that it was printed as."""
    text: Mapped[str] = mapped_column(Text)


class Worker(Base):
    """A process that trains on one device, and when it was last heard of."""

    __tablename__ = "workers"
    __table_args__ = (
        CheckConstraint(one_of("state", WORKER_STATES), name="state"),
        NEVER_REUSED,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(255))
    state: Mapped[str] = mapped_column(String(16), default="active", index=True)
    device: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Kind, name, memory in bytes, threads, host, pid, package versions."""
    tasks: Mapped[list[str]] = mapped_column(default=list)
    """Task names it can train; a study waits until some worker has its task."""
    slots: Mapped[int] = mapped_column(default=1)
    status: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Its last word: slots in use, samples per second, memory, engine and why."""
    registered_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime]


class Pool(Base):
    """A number of workers that something else places, such as Ray, and how many are wanted."""

    __tablename__ = "pools"
    __table_args__ = (
        CheckConstraint("wanted IS NULL OR wanted >= 0", name="wanted"),
        NEVER_REUSED,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(255), unique=True)
    driver: Mapped[str | None] = mapped_column(String(64))
    """Who runs it now; one that was started later takes over. NULL: nobody."""
    wanted: Mapped[int | None]
    """NULL: as many as fit."""
    running: Mapped[int] = mapped_column(default=0)
    fits: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime]


class OfferedTask(Base):
    """A task that some worker has, as the last one to register describes it."""

    __tablename__ = "offered_tasks"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    form: Mapped[dict[str, Any]]
    """Its ``tuner.tasks.TaskForm``."""
    offered_at: Mapped[datetime]


class Dataset(Base):
    """An uploaded file, kept once per checksum."""

    __tablename__ = "datasets"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(255), unique=True)
    format: Mapped[str] = mapped_column(String(16))
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    summary: Mapped[dict[str, Any]] = mapped_column(default=dict)
    owner: Mapped[str | None] = mapped_column(String(255))
    created_at: Mapped[datetime]


class Token(Base):
    """An access token, kept only as a hash."""

    __tablename__ = "tokens"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(255), unique=True)
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class Receipt(Base):
    """What a request made, under the name that its sender gave it: said again, it makes no more."""

    __tablename__ = "receipts"

    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    """What was asked, by whom, and the sender's own name for the request."""
    made: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(index=True)


class Event(Base):
    """What happened, in order, by whom: the audit trail, and what dashboards listen to.

    The ids are no foreign keys: the trail outlives what it tells of, and ids are never reused.
    """

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_study_id_id", "study_id", "id"), NEVER_REUSED)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    study_id: Mapped[int | None]
    trial_id: Mapped[int | None] = mapped_column(BigInteger)
    worker_id: Mapped[int | None]
    kind: Mapped[str] = mapped_column(String(64))
    actor: Mapped[str | None] = mapped_column(String(255))
    data: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime]


class Webhook(Base):
    """An address that is told when a study ends."""

    __tablename__ = "webhooks"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(255), unique=True)
    url: Mapped[str] = mapped_column(Text)
    secret: Mapped[str] = mapped_column(String(255))
    """Signs what is sent. Not a hash: the receiver's copy is compared with nothing, it computes."""
    events: Mapped[list[str]]
    """Kinds of messages it wants."""
    tag: Mapped[str | None] = mapped_column(String(100))
    """Only studies with this tag; NULL: all."""
    owner: Mapped[str | None] = mapped_column(String(255))
    created_at: Mapped[datetime]


class Delivery(Base):
    """A message to one webhook: written with the change it tells of, sent later, kept as a log."""

    __tablename__ = "deliveries"
    __table_args__ = (
        CheckConstraint(one_of("state", DELIVERY_STATES), name="state"),
        CheckConstraint("(due_at IS NULL) = (state <> 'waiting')", name="due_waiting"),
        Index("ix_deliveries_due_at", "due_at"),
        Index("ix_deliveries_webhook_id_id", "webhook_id", "id"),
        NEVER_REUSED,
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    webhook_id: Mapped[int] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    message: Mapped[str] = mapped_column(String(64))
    """The same at every attempt, so that a receiver knows one that it had before."""
    kind: Mapped[str] = mapped_column(String(64))
    study_id: Mapped[int | None]
    """No foreign key: the log outlives the study."""
    body: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(16), default="waiting")
    attempts: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[datetime | None]
    """When to try next; while an attempt is under way, when it counts as lost."""
    status: Mapped[int | None]
    """What the receiver answered last."""
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
