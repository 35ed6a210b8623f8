"""The live feed against a real Valkey: every way to connect, and every way in which that can break."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from api.turns import subscriber as subscriber_module
from api.turns.live import LiveEntry, LiveFeed
from shared.clock import SystemClock
from shared.ids import new_uuid4
from shared.settings import RedisSettings
from shared.tasks import BackgroundTasks
from shared.valkey import connect
from shared.valkey.client import Valkey, open_valkey
from shared.valkey.keyspace import TurnKeys
from tests.support.waiting import wait_until

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
HOST = "127.0.0.1"


@asynccontextmanager
async def feed_of(url: str, *, is_fast: bool = True) -> AsyncIterator[LiveFeed]:
    """A running live feed that connects to `url`."""
    async with open_valkey(RedisSettings.model_validate({"url": url})) as valkey:
        feed = LiveFeed(valkey, capacity=16, is_fast=is_fast)
        background = BackgroundTasks()
        background.spawn(feed.run(), name="live feed")
        try:
            yield feed
        finally:
            await background.aclose()
        assert not feed.is_connected


@asynccontextmanager
async def admin_of(valkey_url: str) -> AsyncIterator[Valkey]:
    async with open_valkey(RedisSettings.model_validate({"url": valkey_url})) as valkey:
        yield valkey


class Door:
    """A way in to the server that a test can block, or cut: by TCP, TLS or a Unix socket."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._writers: list[asyncio.StreamWriter] = []
        self.is_blocked = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(HOST, self._server_port)
        self._writers += [writer, inner_writer]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._copy(reader, inner_writer))
            tasks.create_task(self._copy(inner_reader, writer))

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if not self.is_blocked:
                    writer.write(data)
        writer.transport.abort()


@asynccontextmanager
async def door_to(
    valkey_url: str, *, tls: ssl.SSLContext | None = None, path: Path | None = None
) -> AsyncIterator[tuple[Door, int]]:
    """A door and its port, 0 for a Unix socket."""
    door = Door(urlsplit(valkey_url).port or 0)
    if path is not None:
        server = await asyncio.start_unix_server(door.serve, path)
    else:
        server = await asyncio.start_server(door.serve, HOST, 0, ssl=tls)
    try:
        yield door, 0 if path is not None else server.sockets[0].getsockname()[1]
    finally:
        server.close()
        door.cut()


async def assert_hears(feed: LiveFeed, admin: Valkey) -> None:
    """Entries that are announced come through, in order and whole."""
    keys = TurnKeys(new_uuid4(), new_uuid4())
    with feed.subscribed(keys) as subscription:
        await feed.confirm(subscription)
        subscription.begin_reading_log()
        assert await admin.publish(keys.live, "0-1 1-1 delta\nevent: delta\ndata: {}\n\n") == 1
        assert await admin.publish(keys.live, b"1-1 1-2 delta more of a newer release\n" + bytes(200_000)) == 1
        heard: list[LiveEntry] = []
        while len(heard) < 2:
            async with asyncio.timeout(5):
                await subscription.wait()
            assert not subscription.has_gap
            heard += subscription.take()
    assert [(entry.previous, entry.id, entry.event) for entry in heard] == [
        (b"0-1", b"1-1", b"delta"),
        (b"1-1", b"1-2", b"delta"),
    ]
    assert [len(entry.body) for entry in heard] == [23, 200_000]


def password_of(valkey_url: str) -> str:
    return urlsplit(valkey_url).password or ""


def run_on(loop: Callable[[], asyncio.AbstractEventLoop], main: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await main()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(limited())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("options", ["", "?protocol=3", "?client_name=a-feed", "?health_check_interval=1"])
def test_a_password_and_every_option_of_the_url(
    valkey_url: str, loop: Callable[[], asyncio.AbstractEventLoop], options: str
) -> None:
    async def main() -> None:
        async with admin_of(valkey_url) as admin, feed_of(valkey_url + options) as feed:
            await wait_until(lambda: feed.is_connected)
            await assert_hears(feed, admin)
            if "client_name" in options:
                assert "a-feed" in [client["name"] for client in await admin.client_list()]

    run_on(loop, main)


@pytest.mark.parametrize("loop", LOOPS)
def test_tls(valkey_url: str, tls: tuple[ssl.SSLContext, Path], loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """With a certificate that the URL's authority has signed, in the name of the host."""
    context, authority = tls

    async def main() -> None:
        async with door_to(valkey_url, tls=context) as (door, port), admin_of(valkey_url) as admin:
            url = f"rediss://:{password_of(valkey_url)}@{HOST}:{port}/0?ssl_ca_certs={authority}&ssl_check_hostname=1"
            async with feed_of(url) as feed:
                await wait_until(lambda: feed.is_connected)
                await assert_hears(feed, admin)
                door.cut()
                await wait_until(lambda: not feed.is_connected)
                await wait_until(lambda: feed.is_connected)
                await assert_hears(feed, admin)

    run_on(loop, main)


async def test_an_unknown_authority_is_refused(
    valkey_url: str, tls: tuple[ssl.SSLContext, Path], caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        door_to(valkey_url, tls=tls[0]) as (_, port),
        feed_of(f"rediss://:{password_of(valkey_url)}@{HOST}:{port}/0") as feed,
    ):
        await wait_until(lambda: "CERTIFICATE_VERIFY_FAILED" in caplog.text)
        assert not feed.is_connected


@pytest.mark.parametrize("loop", LOOPS)
def test_a_unix_socket(valkey_url: str, tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    path = tmp_path / "valkey.sock"

    async def main() -> None:
        async with (
            door_to(valkey_url, path=path),
            admin_of(valkey_url) as admin,
            feed_of(f"unix://:{password_of(valkey_url)}@{path}") as feed,
        ):
            await wait_until(lambda: feed.is_connected)
            await assert_hears(feed, admin)

    run_on(loop, main)


async def test_refused_credentials_are_told_and_tried_again(valkey_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The log names the reason, and neither user's password; once the user exists, the feed connects by itself."""
    parts = urlsplit(valkey_url)
    user, password = "late", "a-password-that-nobody-may-see"
    async with (
        admin_of(valkey_url) as admin,
        feed_of(f"redis://{user}:{password}@{HOST}:{parts.port}/0") as feed,
    ):
        await wait_until(lambda: len(_broken(caplog)) >= 2)
        assert "AuthenticationError" in caplog.text
        assert password not in caplog.text
        assert not feed.is_connected
        try:
            await admin.acl_setuser(
                user, enabled=True, passwords=[f"+{password}"], categories=["+@all"], channels=["*"]
            )
            await wait_until(lambda: feed.is_connected)
            await assert_hears(feed, admin)
        finally:
            await admin.acl_deluser(user)


async def test_a_refused_subscription_is_tried_again_more_and_more_slowly(
    valkey_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A user who may not subscribe: each refusal breaks the connection, and readers go by the log meanwhile."""
    parts = urlsplit(valkey_url)
    user, password = "deaf", "secret"
    keys = TurnKeys(new_uuid4(), new_uuid4())
    delays: list[float] = []
    async with admin_of(valkey_url) as admin:
        await admin.acl_setuser(user, enabled=True, passwords=[f"+{password}"], categories=["+@all"])
        try:
            async with feed_of(f"redis://{user}:{password}@{HOST}:{parts.port}/0") as feed:
                with feed.subscribed(keys) as subscription:
                    await wait_until(lambda: len(_broken(caplog)) >= 4)
                    assert "NOPERM" in caplog.text or "no permissions" in caplog.text.lower()
                    assert subscription.has_gap
                    await feed.confirm(subscription)
                    times = [record.created for record in _broken(caplog)]
                    delays = [later - earlier for earlier, later in pairwise(times)]
                    await admin.acl_setuser(user, enabled=True, channels=["*"])
                    await wait_until(lambda: feed.is_connected)
                await wait_until(lambda: feed.is_connected)
                await assert_hears(feed, admin)
        finally:
            await admin.acl_deluser(user)
    assert delays[2] > delays[0], "the back-off must grow"


async def test_a_server_that_falls_silent_is_left(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection stays open, but nothing comes any more: a heartbeat finds out, readers are told of the gap."""
    monkeypatch.setattr(subscriber_module, "HEARTBEAT_SECS", 0.05)
    monkeypatch.setattr(connect, "CONNECT_TIMEOUT_SECS", 0.2)
    async with (
        door_to(valkey_url) as (door, port),
        admin_of(valkey_url) as admin,
        feed_of(f"redis://:{password_of(valkey_url)}@{HOST}:{port}/0") as feed,
    ):
        await wait_until(lambda: feed.is_connected)
        with feed.subscribed(TurnKeys(new_uuid4(), new_uuid4())) as subscription:
            await feed.confirm(subscription)
            subscription.begin_reading_log()
            await asyncio.sleep(0.2)
            assert feed.is_connected, "a quiet connection that answers is kept"
            door.is_blocked = True
            await wait_until(lambda: not feed.is_connected)
            assert subscription.has_gap
        door.is_blocked = False
        await wait_until(lambda: feed.is_connected)
        await assert_hears(feed, admin)


@pytest.mark.parametrize("is_fast", [True, False])
async def test_forced_reconnects(valkey_url: str, is_fast: bool) -> None:
    """Each marks a gap, and the channel is heard again; without the fast path every announcement is a gap."""
    keys = TurnKeys(new_uuid4(), new_uuid4())
    async with admin_of(valkey_url) as admin, feed_of(valkey_url, is_fast=is_fast) as feed:
        await wait_until(lambda: feed.is_connected)
        with feed.subscribed(keys) as subscription:
            for _ in range(5):
                await feed.confirm(subscription)
                subscription.begin_reading_log()
                await feed.drop_connection()
                await wait_until(lambda: subscription.has_gap)
                await wait_until(lambda: feed.is_connected)
                await feed.confirm(subscription)
                subscription.begin_reading_log()
                await admin.publish(keys.live, "1-1 1-2 delta\nbody")
                await subscription.wait()
                assert subscription.has_gap is not is_fast
                assert [entry.id for entry in subscription.take()] == ([b"1-2"] if is_fast else [])


def _broken(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.message.startswith("the live feed is broken")]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A server's side of TLS, and the file of the certificate that vouches for it: its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test")])
    now = SystemClock().now()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    certificate_path, key_path = folder / "certificate.pem", folder / "key.pem"
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_path, key_path)
    return context, certificate_path
