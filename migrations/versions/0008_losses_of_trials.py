"""How often a trial was lost since it last came further."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds what this version needs."""
    op.add_column("trials", sa.Column("lost", sa.JSON(), nullable=True))


def downgrade() -> None:
    """Takes it away again."""
    op.drop_column("trials", "lost")
