"""A training loop of one's own: take trials, say how they go, and keep them meanwhile."""

from __future__ import annotations

import math
import operator
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, SupportsFloat, SupportsIndex

from tuner.client.connection import Connection
from tuner.errors import LeaseLost, NotFound, TunerError, Unavailable
from tuner.protocol import SlotVerdict
from tuner.service import Asked, TrialView
from tuner.trial import number_of, numbers_of

BEATS = 6
"""Heartbeats that may be lost in a row before a trial is."""


@dataclass(eq=False)
class _Hold:
    """An asked trial whose lease is renewed.

    Args:
        trial: Which.
        lease_seconds: How long it is held from each sign of life; None: as the server likes.
        talking: Reports about it that are on their way.
        ended: Whether this client has heard that it is over.
    """

    trial: Asked
    lease_seconds: float | None = None
    talking: int = 0
    ended: bool = False


class OwnLoop(Connection):
    """The client's part for your own loop."""

    @cached_property
    def _holds(self) -> dict[tuple[int, str], _Hold]:
        """By the trials' ids and tokens."""
        return {}

    def ask(self, study: int, k: int = 1) -> list[Asked]:
        """Takes up to ``k`` trials to evaluate by yourself; hold them with :meth:`held`."""
        return self._read(list[Asked], "POST", f"studies/{study}/ask", json={"k": k}, named=True)

    def report(self, trial: Asked, step: SupportsIndex, **metrics: SupportsFloat) -> SlotVerdict:
        """Sends one evaluation of an asked trial; the answer says whether to go on.

        An objective that is NaN or infinite ends the trial: it has diverged, and the answer is to
        stop.

        Raises:
            InvalidInput: A value is no number, or something is missing or out of range.
            LeaseLost: The trial is not yours any more; drop it.
        """
        told = {name: _as_json(number) for name, number in numbers_of(metrics).items()}
        path = f"trials/{trial.trial_id}/report"
        with self._talking(trial) as hold:
            body = {
                "token": trial.token,
                "lease_seconds": hold.lease_seconds,
                "step": operator.index(step),
                "metrics": told,
            }
            verdict = self._read(SlotVerdict, "POST", path, json=body, repeatable=True)
            hold.ended = verdict.action != "continue"
        return verdict

    def tell(
        self,
        trial: Asked,
        values: SupportsFloat | Iterable[SupportsFloat] | None = None,
        *,
        state: Literal["complete", "pruned", "fail"] | None = None,
        reason: str | None = None,
    ) -> TrialView:
        """Ends an asked trial: with its value(s), or as pruned or failed.

        With a value that is NaN or infinite it fails: it has diverged. One that your last report
        has ended already stays as it is.

        Raises:
            InvalidInput: A value is no number, or they do not fit the study.
            LeaseLost: The trial is not yours any more; it was handed to somebody else.
            Conflict: It ended otherwise than this says.
        """
        given: Any = values
        if values is not None and not isinstance(values, str | Mapping):
            # Those go as they are: the server says what should be there.
            given = [_as_json(number) for number in _listed(values)]
        body = {"token": trial.token, "values": given, "state": state, "reason": reason}
        body = {key: value for key, value in body.items() if value is not None}
        path = f"trials/{trial.trial_id}/tell"
        with self._talking(trial) as hold:
            told = self._read(TrialView, "POST", path, json=body, repeatable=True)
            hold.ended = True
        return told

    @contextmanager
    def held(
        self, trials: Iterable[Asked], *, heartbeat_seconds: float = 5.0
    ) -> Iterator[threading.Event]:
        """Renews the leases of asked trials while the block runs, from a thread of its own.

        Should this process die, others are handed the trials after six heartbeats.

        Args:
            trials: Which. Those that end within the block are let go.
            heartbeat_seconds: How often.

        Yields:
            An event that is set when a trial was lost before its end, so that a long evaluation can
            stop.
        """
        lease_seconds = max(1.0, BEATS * heartbeat_seconds)
        mine = {_key(trial): _Hold(trial, lease_seconds) for trial in trials}
        keys = list(mine)
        self._holds.update(mine)
        lost, done = threading.Event(), threading.Event()

        def beat() -> None:
            while not done.wait(heartbeat_seconds):
                for key, hold in list(mine.items()):
                    try:
                        kept = hold.ended or self._renewed(hold)
                    except Unavailable:
                        break  # the server is away; the lease outlives a few beats
                    except TunerError:
                        continue  # it is unwell, or says to come later
                    if hold.ended or not kept:
                        del mine[key]
                    if not kept:
                        lost.set()

        thread = threading.Thread(target=beat, name="tuner-heartbeat", daemon=True)
        thread.start()
        try:
            yield lost
        finally:
            done.set()
            thread.join()
            for key in keys:
                self._holds.pop(key, None)

    def _renewed(self, hold: _Hold) -> bool:
        """Whether a trial is still ours, as far as is known.

        Raises:
            TunerError: The answer says nothing of that.
        """
        path = f"trials/{hold.trial.trial_id}/renew"
        body = {"token": hold.trial.token, "lease_seconds": hold.lease_seconds}
        try:
            self._transport.call("POST", path, json=body, repeatable=True)
        except (LeaseLost, NotFound):
            # Its end frees the lease, and the answer that says so may still be on its way.
            return bool(hold.talking) or hold.ended
        return True

    @contextmanager
    def _talking(self, trial: Asked) -> Iterator[_Hold]:
        """While something is said of a trial; what is known of it, to be noted down."""
        hold = self._holds.get(_key(trial)) or _Hold(trial)
        hold.talking += 1
        try:
            yield hold
        finally:
            hold.talking -= 1


def _key(trial: Asked) -> tuple[int, str]:
    """Trials that were asked for together have one token."""
    return trial.trial_id, trial.token


def _listed(values: SupportsFloat | Iterable[SupportsFloat]) -> list[float]:
    """One value or several, as plain numbers.

    Raises:
        InvalidInput: One is no number.
    """
    try:
        several = list(values)  # type: ignore[arg-type]  # a tensor says only so which it is
    except TypeError:
        several = [values]  # type: ignore[list-item]
    return [number_of(value, "values") for value in several]


def _as_json(number: float) -> float | None:
    """The number as REST has it: JSON knows neither NaN nor infinity."""
    return number if math.isfinite(number) else None
