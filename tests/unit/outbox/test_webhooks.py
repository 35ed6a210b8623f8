from __future__ import annotations

import base64

import pytest

from shared.outbox.webhooks import signature_headers, signing_key
from shared.settings import SinkSettings


def test_a_message_is_signed_as_the_specification_shows() -> None:
    """The example of the Standard Webhooks libraries."""
    headers = signature_headers(
        signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        message_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp=1614265330,
        body=b'{"test": 2432232314}',
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_secret_is_base64_behind_its_prefix_and_text_without() -> None:
    assert signing_key("whsec_" + base64.b64encode(b"\x00key").decode()) == b"\x00key"
    assert signing_key("just a text") == b"just a text"


@pytest.mark.parametrize(
    ("values", "member"),
    [
        ({"kind": "http", "url": "https://h/"}, "url and secret"),
        ({"kind": "http", "secret": "s"}, "url and secret"),
        ({"kind": "http", "url": "ftp://h/", "secret": "s"}, "url: "),
        ({"kind": "http", "url": "https:///path", "secret": "s"}, "url: "),
        ({"kind": "http", "url": "https://h:99999/", "secret": "s"}, "url: "),
        ({"kind": "http", "url": "https://h/", "secret": "whsec_%%%"}, "secret: "),
        ({"kind": "http", "url": "https://h/", "secret": "whsec_"}, "secret: "),
    ],
)
def test_a_sink_that_cannot_work_is_refused_at_start(values: dict[str, str], member: str) -> None:
    with pytest.raises(ValueError, match=member) as refusal:
        SinkSettings.model_validate(values)
    assert "%%%" not in str(refusal.value)
