"""Workers on machines of their own, whose checkpoints are at one address that all reach."""

from __future__ import annotations

from pathlib import Path

from tests.installation import PATIENCE_SECONDS, Installation, installation, until

TRIALS, EPOCHS = 10, 12


def under_way(here: Installation, study: int) -> bool:
    """Whether trials run and have measured something, and none has finished everything yet."""
    found = here.study(study)
    return found["state"] == "running" and any(t["step"] >= 1 for t in here.trials(study))


def finished(here: Installation, study: int) -> bool:
    return here.study(study)["state"] == "completed"


def assert_accounted(here: Installation, study: int) -> None:
    """Every trial exactly once, complete, with each of its steps measured once an attempt."""
    trials = here.trials(study)
    assert sorted(trial["number"] for trial in trials) == list(range(TRIALS))
    ends = {(trial["state"], trial["reason"]) for trial in trials}
    assert ends == {("complete", None)}
    for trial in trials:
        steps = here.steps(trial["id"])
        assert sorted(set(steps)) == list(range(1, EPOCHS + 1))


def test_a_worker_elsewhere_goes_on_where_checkpoints_are_shared(tmp_path: Path) -> None:
    """Two machines with homes of their own, and one address that both reach."""
    address = (tmp_path / "bucket").as_uri()
    with installation(tmp_path) as here:
        here.serve()
        options = ("worker", "--device", "cpu", "--slots", "2", "--checkpoints", address)
        first = here.start(*options, "--home", str(tmp_path / "one"))
        study = here.submit()
        until(lambda: under_way(here, study), "trials under way")
        first.terminate()
        assert first.wait(timeout=PATIENCE_SECONDS) == 0
        assert list((tmp_path / "bucket").rglob("*.safetensors"))
        second = here.start(*options, "--home", str(tmp_path / "two"))
        until(lambda: finished(here, study), "the study to finish")
        assert_accounted(here, study)
        second.terminate()
        assert second.wait(timeout=PATIENCE_SECONDS) == 0
        log = here.log(here.processes.index(second)).read_text()
        assert "from scratch" not in log
        until(lambda: not list((tmp_path / "bucket").rglob("*.safetensors")), "the files to go")
        wrong = here.start(*options[:-1], "nothing://x")
        assert wrong.wait(timeout=PATIENCE_SECONDS) == 2
