"""Two servers, each a process of its own, on one PostgreSQL: together they are as one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.stage import Stage
from tests.installation import until
from tuner import service
from tuner.client import Client
from tuner.service import Context, EventView

TRIALS, EPOCHS, AT_ONCE = 32, 4, 5


def heard(url: str, study: int) -> list[EventView]:
    """All that a dashboard hears of a study, until its end."""
    with Client(url) as client:
        return list(client.events(study))


def most_at_once(events: list[EventView]) -> int:
    """The most trials that were held at one moment, by the audit trail."""
    held: set[int] = set()
    most = 0
    for event in events:
        if event.kind == "trial.leased":
            held.update(event.data["trials"])
            most = max(most, len(held))
        elif event.kind == "trial.state" and event.trial_id is not None:
            held.discard(event.trial_id)
    return most


@pytest.mark.parametrize("dialect", ["postgresql"])
def test_budgets_are_exact_and_dashboards_of_both_hear_all(
    database_url: str, tmp_path: Path
) -> None:
    with Stage(tmp_path, database_url, seed=0) as stage:
        servers = [stage.server(), stage.server()]
        study = stage.submit(TRIALS, EPOCHS, max_concurrent=AT_ONCE)
        with ThreadPoolExecutor(len(servers)) as dashboards:
            told = [dashboards.submit(heard, server.url, study) for server in servers]
            for server in servers * 2:
                stage.hand(server.url, slots=2)
            until(lambda: stage.study(study).state == "completed", "the study to end")
            first, second = (one.result() for one in told)
        found = stage.audit()
        assert (found.lost, found.duplicated, found.missing) == ([], [], [])
        # The point of a grid is tried once: one that both had suggested would be there twice.
        trials = stage.trials(study)
        assert len(trials) == TRIALS
        assert len({(t.config["lr"], t.config["batch_size"]) for t in trials}) == TRIALS
        holders = {t.worker_id for t in trials}
        assert len(holders) > 2, "workers of both must have taken part"
        with_all = Context.open(database_url)
        stored = service.events(with_all, study_id=study, limit=10_000)
        with_all.close()
        assert [event.id for event in first] == [event.id for event in stored]
        assert first == second
        assert most_at_once(stored) == AT_ONCE
