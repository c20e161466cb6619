"""What lets a request that is said again be answered as before."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds what this version needs."""
    op.add_column("trials", sa.Column("last_token", sa.String(length=64), nullable=True))
    op.create_table(
        "receipts",
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("made", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_receipts"),
    )
    op.create_index("ix_receipts_created_at", "receipts", ["created_at"])


def downgrade() -> None:
    """Takes it away again."""
    op.drop_table("receipts")
    op.drop_column("trials", "last_token")
