"""Sum up what a user has uploaded today without reading the attachments of all days."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_index("ix_attachments_of_uploader", "attachments", ["tenant_id", "uploaded_by_user_id", "created_at"])


def downgrade() -> None:
    op.drop_index("ix_attachments_of_uploader", "attachments")
