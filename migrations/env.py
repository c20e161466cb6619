"""Alembic's environment. ``tuner.storage.migrate`` hands it the connection and owns the commit."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

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


run(context.config.attributes["connection"])
