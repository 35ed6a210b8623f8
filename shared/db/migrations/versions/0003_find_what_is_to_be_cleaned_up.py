"""Find deleted chats and attachments that are not ready without reading everything."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_index("ix_chats_deleted_at", "chats", ["deleted_at"], postgresql_where=sa.text("deleted_at IS NOT NULL"))
    op.create_index(
        "ix_attachments_not_ready",
        "attachments",
        ["status", "updated_at"],
        postgresql_where=sa.text("status <> 'ready'"),
    )


def downgrade() -> None:
    op.drop_index("ix_attachments_not_ready", "attachments")
    op.drop_index("ix_chats_deleted_at", "chats")
