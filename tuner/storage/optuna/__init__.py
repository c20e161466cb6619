"""The door for Optuna: a study of ours is an Optuna study.

``optuna.load_study(study_name=..., storage=SqlStorage(url))`` and everything built on it works:
figures, importances, optuna-dashboard. The other way round, a study made through Optuna is a row
here with an empty spec, which the server lists and shows but never runs.
"""

from __future__ import annotations

from tuner.storage import migrate
from tuner.storage.engine import Database
from tuner.storage.optuna.history import History
from tuner.storage.optuna.studies import StudyCalls
from tuner.storage.optuna.trials import TrialCalls


class SqlStorage(StudyCalls, TrialCalls):
    """An Optuna storage over this package's tables; see ``optuna.storages.BaseStorage``.

    Trials are read once: afterwards one indexed query a call asks for those that changed. Each
    change is one transaction and has been committed when the call returns.

    Args:
        url: As for :class:`tuner.storage.engine.Database`, or an open one to share.

    Raises:
        SchemaOutdated: The database needs ``tuner db upgrade``; a SQLite file is upgraded at once.
    """

    def __init__(self, url: str | Database) -> None:
        self.database = url if isinstance(url, Database) else Database(url)
        migrate.prepare(self.database)
        self._history = History(self.database)

    def __getstate__(self) -> dict[str, str]:
        return {"url": self.database.url.render_as_string(hide_password=False)}

    def __setstate__(self, state: dict[str, str]) -> None:
        SqlStorage.__init__(self, state["url"])
