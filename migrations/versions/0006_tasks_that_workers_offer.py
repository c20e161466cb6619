"""What workers say of tasks that a server may not have."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds what this version needs."""
    op.create_table(
        "offered_tasks",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("form", sa.JSON(), nullable=False),
        sa.Column("offered_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_offered_tasks"),
    )


def downgrade() -> None:
    """Takes it away again."""
    op.drop_table("offered_tasks")
