from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from api.attachments import use_cases
from api.attachments.schemas import UPLOAD_BODY, AttachmentDetail
from api.attachments.upload import UploadRequest, upload_attachment
from api.auth import Action, Principal
from api.dependencies import AttachmentIdPath, ChatIdPath, Context, require
from api.problems import problem_responses
from shared.attachments.errors import (
    AttachmentLockedError,
    AttachmentNotFoundError,
    DocumentLimitExceededError,
    FileTooLargeError,
    ImagesDisabledError,
    ProviderMismatchError,
    StorageLimitExceededError,
    UnsupportedFileTypeError,
    UploadConcurrencyLimitError,
)
from shared.chats.errors import ChatNotFoundError
from shared.errors import UnprocessableError, UpstreamError, UpstreamTimeoutError
from shared.quotas.errors import QuotaExceededError

router = APIRouter(tags=["attachments"])

_PATH = "/chats/{chat_id}/attachments"


@router.post(
    _PATH,
    status_code=201,
    openapi_extra=UPLOAD_BODY,
    responses=problem_responses(
        ChatNotFoundError,
        AttachmentNotFoundError,
        ImagesDisabledError,
        DocumentLimitExceededError,
        StorageLimitExceededError,
        ProviderMismatchError,
        FileTooLargeError,
        UnsupportedFileTypeError,
        UnprocessableError,
        QuotaExceededError,
        UploadConcurrencyLimitError,
        UpstreamError,
        UpstreamTimeoutError,
    ),
)
async def create_attachment(
    chat_id: ChatIdPath,
    request: Request,
    context: Context,
    principal: Annotated[Principal, Depends(require(Action.UPLOAD_ATTACHMENT))],
) -> AttachmentDetail:
    """Upload a file. A document can be used once it is `ready`, which is soon; images and spreadsheets are at once."""
    length = request.headers.get("Content-Length", "")
    upload = UploadRequest(
        chat_id=chat_id,
        content_type=request.headers.get("Content-Type"),
        content_length=int(length) if length.isascii() and length.isdecimal() else None,
        chunks=request.stream(),
    )
    return AttachmentDetail.of(await upload_attachment(upload, principal, context))


@router.get(f"{_PATH}/{{attachment_id}}", responses=problem_responses(ChatNotFoundError, AttachmentNotFoundError))
async def get_attachment(
    chat_id: ChatIdPath,
    attachment_id: AttachmentIdPath,
    context: Context,
    principal: Annotated[Principal, Depends(require(Action.READ_ATTACHMENT))],
) -> AttachmentDetail:
    """What is known of an attachment, and whether it can be used yet."""
    return AttachmentDetail.of(
        await use_cases.get_attachment(principal, chat_id, attachment_id, sessions=context.sessions)
    )


@router.delete(
    f"{_PATH}/{{attachment_id}}",
    status_code=204,
    response_class=Response,
    responses=problem_responses(ChatNotFoundError, AttachmentNotFoundError, AttachmentLockedError),
)
async def delete_attachment(
    chat_id: ChatIdPath,
    attachment_id: AttachmentIdPath,
    context: Context,
    principal: Annotated[Principal, Depends(require(Action.DELETE_ATTACHMENT))],
) -> None:
    """Delete an attachment that no message refers to; one that is deleted already stays so."""
    await use_cases.delete_attachment(
        principal,
        chat_id,
        attachment_id,
        sessions=context.sessions,
        clock=context.clock,
        metrics=context.metrics,
    )
