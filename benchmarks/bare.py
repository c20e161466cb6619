"""The least that a service of this kind could do: FastAPI, a validated body, one row inserted.

python -m benchmarks.bare URL PORT
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    Engine,
    Integer,
    MetaData,
    Table,
    create_engine,
    insert,
)

from tuner.storage.engine import Database, parse_url

table = Table(
    "bare",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("worker", Integer),
    Column("metrics", JSON),
    Column("created_at", DateTime(timezone=True)),
)


class Point(BaseModel):
    """One row."""

    worker: int
    metrics: dict[str, float]


def application(engine: Engine) -> FastAPI:
    """The application."""
    app = FastAPI()
    statement = insert(table)

    @app.post("/insert")
    def add(point: Point) -> dict[str, bool]:
        row = {"worker": point.worker, "metrics": point.metrics, "created_at": datetime.now(UTC)}
        with engine.begin() as connection:
            connection.execute(statement, row)
        return {"ok": True}

    return app


def main(url: str, port: int) -> None:
    """Serves it: on SQLite in the mode in which the service opens it, else with the defaults."""
    found = parse_url(url)
    engine = (
        create_engine(found) if found.get_backend_name() == "postgresql" else Database(url).engine
    )
    table.metadata.create_all(engine)
    uvicorn.run(application(engine), port=port, log_config=None)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
