"""Alembic's environment. ``tuner.storage.migrate`` hands it the connection and owns the commit.

``alembic -x url=sqlite:///FILE revision --autogenerate -m ...`` works here too, for developers.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from tuner.storage.engine import Database
from tuner.storage.models import Base


def run(connection: Connection) -> None:
    """Runs the revisions that are due on this connection."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        transactional_ddl=True,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    database = Database(context.get_x_argument(as_dictionary=True)["url"])
    with database.engine.begin() as opened:
        run(opened)
    database.dispose()
