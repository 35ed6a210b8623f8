"""Record which tools a turn was reserved for, and the summary that its chat had."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    for name in ("file_search_included", "code_interpreter_included"):
        op.add_column("chat_turns", sa.Column(name, sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("chat_turns", sa.Column("summary_token_estimate", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("chat_turns", "summary_token_estimate")
    for name in ("file_search_included", "code_interpreter_included"):
        op.drop_column("chat_turns", name)
