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
