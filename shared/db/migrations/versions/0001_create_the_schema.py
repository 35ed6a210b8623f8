"""Create the schema."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "chats",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("model", sa.String(length=1024), nullable=False),
        sa.Column("title", sa.String(length=255), nullable=True),
        sa.Column("is_temporary", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chats")),
    )
    op.create_index(
        "ix_chats_owner_newest",
        "chats",
        ["tenant_id", "user_id", sa.literal_column("updated_at DESC"), sa.literal_column("id DESC")],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "outbox_dead_letters",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("queue", sa.String(length=64), nullable=False),
        sa.Column("partition_key", sa.String(length=64), nullable=False),
        sa.Column("payload_type", sa.String(length=64), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("dedupe_key", sa.String(length=160), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("failed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox_dead_letters")),
    )
    op.create_table(
        "outbox_messages",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False),
        sa.Column("queue", sa.String(length=64), nullable=False),
        sa.Column("partition_key", sa.String(length=64), nullable=False),
        sa.Column("payload_type", sa.String(length=64), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("dedupe_key", sa.String(length=160), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("available_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("locked_by", sa.String(length=128), nullable=True),
        sa.Column("locked_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox_messages")),
    )
    op.create_index(
        "ix_outbox_messages_due",
        "outbox_messages",
        ["queue", "available_at", "id"],
        unique=False,
        postgresql_where=sa.text("delivered_at IS NULL"),
    )
    op.create_index(
        "uq_outbox_messages_queue_dedupe_key",
        "outbox_messages",
        ["queue", "dedupe_key"],
        unique=True,
        postgresql_where=sa.text("dedupe_key IS NOT NULL"),
    )
    op.create_table(
        "policy_snapshots",
        sa.Column("policy_version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("content_hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("policy_version", name=op.f("pk_policy_snapshots")),
    )
    op.create_table(
        "quota_usage",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("period_type", sa.String(length=16), nullable=False),
        sa.Column("period_start", sa.Date(), nullable=False),
        sa.Column("bucket", sa.String(length=32), nullable=False),
        sa.Column("spent_credits_micro", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("reserved_credits_micro", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("calls", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("file_search_calls", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("web_search_calls", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("code_interpreter_calls", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("rag_retrieval_calls", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("image_inputs", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("image_upload_bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("bucket IN ('total', 'tier:premium')", name=op.f("ck_quota_usage_bucket")),
        sa.CheckConstraint("period_type IN ('daily', 'monthly')", name=op.f("ck_quota_usage_period_type")),
        sa.CheckConstraint("calls >= 0", name=op.f("ck_quota_usage_calls")),
        sa.CheckConstraint("code_interpreter_calls >= 0", name=op.f("ck_quota_usage_code_interpreter_calls")),
        sa.CheckConstraint("file_search_calls >= 0", name=op.f("ck_quota_usage_file_search_calls")),
        sa.CheckConstraint("image_inputs >= 0", name=op.f("ck_quota_usage_image_inputs")),
        sa.CheckConstraint("image_upload_bytes >= 0", name=op.f("ck_quota_usage_image_upload_bytes")),
        sa.CheckConstraint("input_tokens >= 0", name=op.f("ck_quota_usage_input_tokens")),
        sa.CheckConstraint("output_tokens >= 0", name=op.f("ck_quota_usage_output_tokens")),
        sa.CheckConstraint("rag_retrieval_calls >= 0", name=op.f("ck_quota_usage_rag_retrieval_calls")),
        sa.CheckConstraint("reserved_credits_micro >= 0", name=op.f("ck_quota_usage_reserved_credits_micro")),
        sa.CheckConstraint("spent_credits_micro >= 0", name=op.f("ck_quota_usage_spent_credits_micro")),
        sa.CheckConstraint("web_search_calls >= 0", name=op.f("ck_quota_usage_web_search_calls")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quota_usage")),
        sa.UniqueConstraint(
            "tenant_id", "user_id", "period_type", "period_start", "bucket", name="uq_quota_usage_bucket"
        ),
    )
    op.create_table(
        "attachments",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("chat_id", sa.Uuid(), nullable=False),
        sa.Column("uploaded_by_user_id", sa.Uuid(), nullable=False),
        sa.Column("filename", sa.String(length=255), nullable=False),
        sa.Column("content_type", sa.String(length=128), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("storage_backend", sa.String(length=32), nullable=False),
        sa.Column("provider_file_id", sa.String(length=128), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("attachment_kind", sa.String(length=16), nullable=False),
        sa.Column("for_file_search", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("for_code_interpreter", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("doc_summary", sa.Text(), nullable=True),
        sa.Column("img_thumbnail", sa.LargeBinary(), nullable=True),
        sa.Column("img_thumbnail_width", sa.Integer(), nullable=True),
        sa.Column("img_thumbnail_height", sa.Integer(), nullable=True),
        sa.Column("summary_model", sa.String(length=1024), nullable=True),
        sa.Column("summary_updated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cleanup_status", sa.String(length=16), nullable=True),
        sa.Column("cleanup_attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_cleanup_error", sa.Text(), nullable=True),
        sa.Column("cleanup_updated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "attachment_kind <> 'document' OR img_thumbnail IS NULL", name=op.f("ck_attachments_no_document_thumbnail")
        ),
        sa.CheckConstraint(
            "attachment_kind <> 'image' OR doc_summary IS NULL", name=op.f("ck_attachments_no_image_summary")
        ),
        sa.CheckConstraint("attachment_kind IN ('document', 'image')", name=op.f("ck_attachments_attachment_kind")),
        sa.CheckConstraint(
            "cleanup_status IN ('pending', 'done', 'failed')", name=op.f("ck_attachments_cleanup_status")
        ),
        sa.CheckConstraint("status IN ('pending', 'uploaded', 'ready', 'failed')", name=op.f("ck_attachments_status")),
        sa.CheckConstraint("img_thumbnail_height >= 0", name=op.f("ck_attachments_img_thumbnail_height")),
        sa.CheckConstraint("img_thumbnail_width >= 0", name=op.f("ck_attachments_img_thumbnail_width")),
        sa.CheckConstraint("size_bytes >= 0", name=op.f("ck_attachments_size_bytes")),
        sa.ForeignKeyConstraint(
            ["chat_id"], ["chats.id"], name=op.f("fk_attachments_chat_id_chats"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attachments")),
        sa.UniqueConstraint("id", "chat_id", name=op.f("uq_attachments_id_chat_id")),
    )
    op.create_index(
        "ix_attachments_chat_id_provider_file_id", "attachments", ["chat_id", "provider_file_id"], unique=False
    )
    op.create_index(
        "ix_attachments_cleanup_status",
        "attachments",
        ["cleanup_status"],
        unique=False,
        postgresql_where=sa.text("cleanup_status IS NOT NULL"),
    )
    op.create_index(
        "ix_attachments_tenant_id_chat_id",
        "attachments",
        ["tenant_id", "chat_id"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "chat_vector_stores",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("chat_id", sa.Uuid(), nullable=False),
        sa.Column("vector_store_id", sa.String(length=128), nullable=True),
        sa.Column("provider", sa.String(length=128), nullable=False),
        sa.Column("file_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["chat_id"], ["chats.id"], name=op.f("fk_chat_vector_stores_chat_id_chats"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chat_vector_stores")),
        sa.UniqueConstraint("tenant_id", "chat_id", name=op.f("uq_chat_vector_stores_tenant_id_chat_id")),
    )
    op.create_table(
        "messages",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("chat_id", sa.Uuid(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=True),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("content", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("content_type", sa.String(length=32), server_default=sa.text("'text'"), nullable=False),
        sa.Column("token_estimate", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("provider_response_id", sa.String(length=128), nullable=True),
        sa.Column("request_kind", sa.String(length=16), nullable=True),
        sa.Column(
            "features_used",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("input_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("cache_read_input_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("cache_write_input_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("model", sa.String(length=1024), nullable=True),
        sa.Column("is_compressed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("citations", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "content_type IN ('text', 'system', 'tool_call', 'tool_result')", name=op.f("ck_messages_content_type")
        ),
        sa.CheckConstraint(
            "request_kind IS NULL OR request_kind IN ('chat', 'summary', 'doc_summary')",
            name=op.f("ck_messages_request_kind"),
        ),
        sa.CheckConstraint("role IN ('user', 'assistant', 'system')", name=op.f("ck_messages_role")),
        sa.CheckConstraint("cache_read_input_tokens >= 0", name=op.f("ck_messages_cache_read_input_tokens")),
        sa.CheckConstraint("cache_write_input_tokens >= 0", name=op.f("ck_messages_cache_write_input_tokens")),
        sa.CheckConstraint("input_tokens >= 0", name=op.f("ck_messages_input_tokens")),
        sa.CheckConstraint("output_tokens >= 0", name=op.f("ck_messages_output_tokens")),
        sa.CheckConstraint("reasoning_tokens >= 0", name=op.f("ck_messages_reasoning_tokens")),
        sa.CheckConstraint("token_estimate >= 0", name=op.f("ck_messages_token_estimate")),
        sa.ForeignKeyConstraint(["chat_id"], ["chats.id"], name=op.f("fk_messages_chat_id_chats"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_messages")),
        sa.UniqueConstraint("id", "chat_id", name=op.f("uq_messages_id_chat_id")),
    )
    op.create_index(
        "ix_messages_history",
        "messages",
        ["chat_id", "created_at", "id"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        "uq_messages_turn_role",
        "messages",
        ["chat_id", "request_id", "role"],
        unique=True,
        postgresql_where=sa.text("request_id IS NOT NULL AND deleted_at IS NULL"),
    )
    op.create_table(
        "thread_summaries",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("chat_id", sa.Uuid(), nullable=False),
        sa.Column("summary_text", sa.Text(), nullable=False),
        sa.Column("summarized_up_to_created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("summarized_up_to_message_id", sa.Uuid(), nullable=False),
        sa.Column("token_estimate", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["chat_id"], ["chats.id"], name=op.f("fk_thread_summaries_chat_id_chats"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_thread_summaries")),
        sa.UniqueConstraint("chat_id", name=op.f("uq_thread_summaries_chat_id")),
    )
    op.create_table(
        "chat_turns",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("chat_id", sa.Uuid(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("requester_type", sa.String(length=16), nullable=False),
        sa.Column("requester_user_id", sa.Uuid(), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("provider_name", sa.String(length=128), nullable=True),
        sa.Column("provider_response_id", sa.String(length=128), nullable=True),
        sa.Column("assistant_message_id", sa.Uuid(), nullable=True),
        sa.Column("planned_message_id", sa.Uuid(), nullable=False),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("completion_signal", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("reserve_tokens", sa.BigInteger(), nullable=True),
        sa.Column("max_output_tokens_applied", sa.Integer(), nullable=True),
        sa.Column("reserved_credits_micro", sa.BigInteger(), nullable=True),
        sa.Column("policy_version_applied", sa.BigInteger(), nullable=True),
        sa.Column("effective_model", sa.String(length=1024), nullable=True),
        sa.Column("minimal_generation_floor_applied", sa.Integer(), nullable=True),
        sa.Column("daily_period_start", sa.Date(), nullable=True),
        sa.Column("monthly_period_start", sa.Date(), nullable=True),
        sa.Column("quota_decision", sa.String(length=16), nullable=True),
        sa.Column("downgrade_from", sa.String(length=1024), nullable=True),
        sa.Column("downgrade_reason", sa.String(length=32), nullable=True),
        sa.Column("web_search_enabled", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("web_search_completed_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("code_interpreter_completed_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("image_inputs", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("on_disconnect", sa.String(length=8), nullable=True),
        sa.Column("on_worker_loss", sa.String(length=8), nullable=True),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_trigger", sa.String(length=16), nullable=True),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("lost_attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("lease_owner", sa.String(length=128), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_progress_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("replaced_by_request_id", sa.Uuid(), nullable=True),
        sa.CheckConstraint(
            "(state = 'running') = (completed_at IS NULL)", name=op.f("ck_chat_turns_terminal_iff_completed_at")
        ),
        sa.CheckConstraint("requester_type IN ('user', 'system')", name=op.f("ck_chat_turns_requester_type")),
        sa.CheckConstraint(
            "state <> 'running' OR last_progress_at IS NOT NULL", name=op.f("ck_chat_turns_running_has_progress")
        ),
        sa.CheckConstraint(
            "state IN ('running', 'completed', 'failed', 'cancelled')", name=op.f("ck_chat_turns_state")
        ),
        sa.ForeignKeyConstraint(
            ["assistant_message_id"],
            ["messages.id"],
            name=op.f("fk_chat_turns_assistant_message_id_messages"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["chat_id"], ["chats.id"], name=op.f("fk_chat_turns_chat_id_chats"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chat_turns")),
    )
    op.create_index(
        "ix_chat_turns_lease",
        "chat_turns",
        ["lease_expires_at"],
        unique=False,
        postgresql_where=sa.text("state = 'running' AND deleted_at IS NULL"),
    )
    op.create_index(
        "ix_chat_turns_newest",
        "chat_turns",
        ["chat_id", sa.literal_column("started_at DESC"), sa.literal_column("id DESC")],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        "ix_chat_turns_progress",
        "chat_turns",
        ["last_progress_at"],
        unique=False,
        postgresql_where=sa.text("state = 'running' AND deleted_at IS NULL"),
    )
    op.create_index("uq_chat_turns_chat_id_request_id", "chat_turns", ["chat_id", "request_id"], unique=True)
    op.create_index(
        "uq_chat_turns_running",
        "chat_turns",
        ["chat_id"],
        unique=True,
        postgresql_where=sa.text("state = 'running' AND deleted_at IS NULL"),
    )
    op.create_table(
        "message_attachments",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("chat_id", sa.Uuid(), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("attachment_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["attachment_id", "chat_id"],
            ["attachments.id", "attachments.chat_id"],
            name=op.f("fk_message_attachments_attachment_id_chat_id_attachments"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["message_id", "chat_id"],
            ["messages.id", "messages.chat_id"],
            name=op.f("fk_message_attachments_message_id_chat_id_messages"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("chat_id", "message_id", "attachment_id", name=op.f("pk_message_attachments")),
    )
    op.create_index(
        "ix_message_attachments_attachment_id_chat_id",
        "message_attachments",
        ["attachment_id", "chat_id"],
        unique=False,
    )
    op.create_index(
        "ix_message_attachments_tenant_id_chat_id", "message_attachments", ["tenant_id", "chat_id"], unique=False
    )
    op.create_table(
        "message_reactions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("chat_id", sa.Uuid(), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("reaction", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("reaction IN ('like', 'dislike')", name=op.f("ck_message_reactions_reaction")),
        sa.ForeignKeyConstraint(
            ["message_id", "chat_id"],
            ["messages.id", "messages.chat_id"],
            name=op.f("fk_message_reactions_message_id_chat_id_messages"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_message_reactions")),
        sa.UniqueConstraint("message_id", "user_id", name=op.f("uq_message_reactions_message_id_user_id")),
    )
    op.create_index("ix_message_reactions_chat_id", "message_reactions", ["chat_id"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_message_reactions_chat_id", table_name="message_reactions")
    op.drop_table("message_reactions")
    op.drop_index("ix_message_attachments_tenant_id_chat_id", table_name="message_attachments")
    op.drop_index("ix_message_attachments_attachment_id_chat_id", table_name="message_attachments")
    op.drop_table("message_attachments")
    op.drop_index(
        "uq_chat_turns_running",
        table_name="chat_turns",
        postgresql_where=sa.text("state = 'running' AND deleted_at IS NULL"),
    )
    op.drop_index("uq_chat_turns_chat_id_request_id", table_name="chat_turns")
    op.drop_index(
        "ix_chat_turns_progress",
        table_name="chat_turns",
        postgresql_where=sa.text("state = 'running' AND deleted_at IS NULL"),
    )
    op.drop_index("ix_chat_turns_newest", table_name="chat_turns", postgresql_where=sa.text("deleted_at IS NULL"))
    op.drop_index(
        "ix_chat_turns_lease",
        table_name="chat_turns",
        postgresql_where=sa.text("state = 'running' AND deleted_at IS NULL"),
    )
    op.drop_table("chat_turns")
    op.drop_table("thread_summaries")
    op.drop_index(
        "uq_messages_turn_role",
        table_name="messages",
        postgresql_where=sa.text("request_id IS NOT NULL AND deleted_at IS NULL"),
    )
    op.drop_index("ix_messages_history", table_name="messages", postgresql_where=sa.text("deleted_at IS NULL"))
    op.drop_table("messages")
    op.drop_table("chat_vector_stores")
    op.drop_index(
        "ix_attachments_tenant_id_chat_id", table_name="attachments", postgresql_where=sa.text("deleted_at IS NULL")
    )
    op.drop_index(
        "ix_attachments_cleanup_status",
        table_name="attachments",
        postgresql_where=sa.text("cleanup_status IS NOT NULL"),
    )
    op.drop_index("ix_attachments_chat_id_provider_file_id", table_name="attachments")
    op.drop_table("attachments")
    op.drop_table("quota_usage")
    op.drop_table("policy_snapshots")
    op.drop_index(
        "uq_outbox_messages_queue_dedupe_key",
        table_name="outbox_messages",
        postgresql_where=sa.text("dedupe_key IS NOT NULL"),
    )
    op.drop_index(
        "ix_outbox_messages_due", table_name="outbox_messages", postgresql_where=sa.text("delivered_at IS NULL")
    )
    op.drop_table("outbox_messages")
    op.drop_table("outbox_dead_letters")
    op.drop_index("ix_chats_owner_newest", table_name="chats", postgresql_where=sa.text("deleted_at IS NULL"))
    op.drop_table("chats")
