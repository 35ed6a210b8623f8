"""Find deleted chats, attachments that are not ready, and uploads without a file, without reading everything."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_index("ix_chats_deleted_at", "chats", ["deleted_at"], postgresql_where=sa.text("deleted_at IS NOT NULL"))
    op.create_index(
        "ix_attachments_not_ready",
        "attachments",
        ["status"],
        postgresql_where=sa.text("status <> 'ready' AND deleted_at IS NULL AND cleanup_status IS NULL"),
    )
    op.create_index(
        "ix_attachments_without_file",
        "attachments",
        ["updated_at"],
        postgresql_where=sa.text("provider_file_id IS NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_attachments_without_file", "attachments")
    op.drop_index("ix_attachments_not_ready", "attachments")
    op.drop_index("ix_chats_deleted_at", "chats")
