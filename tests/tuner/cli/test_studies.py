"""What commands about studies tell a person."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuner import service
from tuner.cli.studies import describe
from tuner.service import Context
from tuner.spec import StudySpec
from tuner.storage import migrate


def test_failures_beyond_the_commonest_reasons_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/t.sqlite"
    migrate.prepare(url)
    context = Context.open(url)
    spec = StudySpec.parse(
        {
            "name": "poor",
            "space": {"x": {"type": "float", "low": 0, "high": 1}},
            "sampler": "random",
            "budget": {"trials": 8},
        }
    )
    study = service.submit(context, spec)
    asked = service.ask(context, study.id, 7)
    for trial, reason in zip(asked, "aaabbcd", strict=True):
        service.tell(context, trial.trial_id, trial.token, state="fail", reason=reason)
    failed = service.list_trials(context, study.id, state="fail").items
    view = service.show_study(context, study.id)
    describe(view, [], failed)
    lines = capsys.readouterr().out.splitlines()[1:]
    assert lines == ["3 failed: a", "2 failed: b", "1 failed: c", "and 1 more failed"]
    describe(view, [])
    assert "more" not in capsys.readouterr().out
    context.close()
