"""Record which tools a turn was reserved for."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    for name in ("file_search_included", "code_interpreter_included"):
        op.add_column("chat_turns", sa.Column(name, sa.Boolean(), server_default=sa.text("false"), nullable=False))


def downgrade() -> None:
    for name in ("file_search_included", "code_interpreter_included"):
        op.drop_column("chat_turns", name)
