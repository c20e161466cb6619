"""What scripts print: pieces of text, by trial and attempt."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

# SQLite numbers only an INTEGER PRIMARY KEY by itself; PostgreSQL wants 64 bits.
BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds what this version needs."""
    op.create_table(
        "log_pieces",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("trial_id", BIG_ID, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("lease", sa.String(length=16), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["trial_id"], ["trials.id"], name="fk_log_pieces_trial_id_trials", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_log_pieces"),
        sa.UniqueConstraint(
            "trial_id", "lease", "start", name="uq_log_pieces_trial_id_lease_start"
        ),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    """Takes it away again."""
    op.drop_table("log_pieces")
