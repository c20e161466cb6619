"""Range tests before a study's first trial."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds what this version needs."""
    op.add_column("studies", sa.Column("lr_range", sa.JSON(), nullable=True))
    op.create_table(
        "probes",
        sa.Column("study_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("within", sa.Boolean(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker_id", sa.Integer(), nullable=True),
        sa.Column("lease_token", sa.String(length=64), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('waiting', 'running', 'measured', 'failed', 'skipped')",
            name=op.f("ck_probes_state"),
        ),
        sa.CheckConstraint(
            "(lease_token IS NULL) = (lease_expires_at IS NULL)", name=op.f("ck_probes_lease_whole")
        ),
        sa.CheckConstraint(
            "(lease_token IS NULL) = (state <> 'running')", name=op.f("ck_probes_lease_running")
        ),
        sa.ForeignKeyConstraint(
            ["study_id"], ["studies.id"], name="fk_probes_study_id_studies", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["worker_id"], ["workers.id"], name="fk_probes_worker_id_workers", ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("study_id", name="pk_probes"),
    )


def downgrade() -> None:
    """Takes it away again."""
    op.drop_table("probes")
    op.drop_column("studies", "lr_range")
