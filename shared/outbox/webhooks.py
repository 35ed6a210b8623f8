"""Signed HTTP messages after the Standard Webhooks specification.

A message carries `webhook-id` (the same at every try, by which a receiver drops repetitions), `webhook-timestamp`
(seconds, of this try) and `webhook-signature`: `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

_ENCODED: Final = "whsec_"


def signing_key(secret: str) -> bytes:
    """The key of a configured secret: `whsec_` and base64, or any other text as it is.

    Raises:
        ValueError: what follows `whsec_` is not base64, or there is no key; the text does not show it.
    """
    if not secret.startswith(_ENCODED):
        key = secret.encode()
    else:
        try:
            key = base64.b64decode(secret.removeprefix(_ENCODED), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(f"what follows {_ENCODED} must be base64") from None
    if not key:
        raise ValueError("must not be empty")
    return key


def signature_headers(key: bytes, *, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    signed = f"{message_id}.{timestamp}.".encode() + body
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }
