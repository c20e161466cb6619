"""``tuner run`` in this process, where a receiver listens."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.receiver import receiving
from tests.tuner.cli.test_processes import write
from tuner.cli import main
from tuner.service import Context, ServiceSettings, webhooks
from tuner.storage import migrate


# The other tests of this process have loaded JAX, which fears forks; the children never call it.
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_a_webhook_is_told_of_a_study_that_had_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/tuner.sqlite"
    migrate.prepare(url)
    context = Context.open(url, settings=ServiceSettings(webhook_hosts=("127.0.0.1",)))
    with receiving() as receiver:
        webhooks.create_webhook(context, "chat", receiver.url)
        monkeypatch.setenv("TUNER_WEBHOOK_HOSTS", "127.0.0.1")
        study = write(tmp_path, name="small", trials=2, epochs=1)
        arguments = ["run", str(study), "--home", str(tmp_path), "--database-url", url]
        assert main([*arguments, "--device", "cpu", "--json"]) == 0
        assert [got.headers["webhook-id"] for got in receiver.received] == [
            webhooks.deliveries(context, "chat").items[0].message
        ]
        assert main([*arguments, "--json"]) == 0
        assert len(receiver.received) == 1, "a study that has run before does not end again"
    context.close()


def test_a_study_of_that_name_that_differs_is_refused_by_its_fields(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ["--home", str(tmp_path), "--database-url", f"sqlite:///{tmp_path}/t.sqlite"]
    file = write(tmp_path, name="d", trials=1, epochs=1)
    assert main(["run", str(file), *home, "--device", "cpu", "--json"]) == 0
    capsys.readouterr()

    def refused(*options: str) -> str:
        assert main(["run", str(file), *home, *options]) == 2
        return capsys.readouterr().err

    beginning = "tuner: name: study 1 is named 'd' too and differs "
    said = "(seed: 0 there, 5 here); choose another name\n"
    assert refused("--seed", "5") == beginning + said
    write(tmp_path, name="d", trials=2, epochs=1)
    said = "(budget.trials: 1 there, 2 here; seed: 0 there, 5 here); choose another name\n"
    assert refused("--seed", "5") == beginning + said
    text = file.read_text().replace("{type: float, low: 1.0e-4, high: 1.0e-2, log: true}", "0.01")
    file.write_text(text + "tags: [new]\n")
    said = refused()
    assert "(space.lr: type=float low=0.0001 high=0.01 log=yes there, 0.01 here; " in said
    assert said.endswith("; and 1 more); choose another name\n")
