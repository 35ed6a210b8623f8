"""Control endpoints, refusals, and the life of the process."""

import asyncio
import contextlib
import json
import signal
import socket
import sys

import pytest
from aiohttp.test_utils import make_mocked_request

from api.demo_provider.journal import Journal
from api.demo_provider.main import run, serving
from tests.unit.demo_provider.driver import Provider

RUN = "import sys; from api.demo_provider.main import run; run(host='127.0.0.1', port=int(sys.argv[1]))"


async def test_records_mask_credentials(provider: Provider) -> None:
    """A record holds path, body and headers by lower-case name, never a secret."""
    headers = {"Authorization": "Bearer sk-secret", "API-Key": "secret", "X-Trace": "t1"}
    async with provider.session.post("/openai/v1/responses?a=b", json={"input": "x"}, headers=headers) as response:
        assert response.status == 200
    record = await provider.record()
    assert record["path"] == "/openai/v1/responses?a=b"
    assert record["body"] == {"input": "x"}
    assert (record["headers"]["authorization"], record["headers"]["api-key"]) == ("Bearer ***", "***")
    assert record["headers"]["x-trace"] == "t1"
    assert "secret" not in str(record)
    assert record["deltas_sent"] == 0
    assert record["finished_at"] is not None


async def test_records_can_be_cleared(provider: Provider) -> None:
    """Only calls to the API are recorded."""
    async with provider.session.get("/v1/models") as response:
        assert [model["object"] for model in (await response.json())["data"]] == ["model", "model"]
    assert (await provider.record())["path"] == "/v1/models"
    async with provider.session.delete("/_control/requests") as response:
        assert response.status == 204
    async with provider.session.get("/_control/requests") as response:
        assert await response.json() == []


@pytest.mark.parametrize("body", ["{", '{"text":"x"}', '[{"txt":"x"}]', '[{"rate":"fast"}]', "[[]]", "[" * 100_000])
async def test_invalid_scripts_are_refused(provider: Provider, body: str) -> None:
    """With 400, and none of them is queued."""
    async with provider.session.post("/_control/scripts", data=body) as response:
        assert response.status == 400
        assert (await response.json())["error"]["message"]
    await provider.queue({"text": "x"})
    async with provider.session.post("/_control/scripts", json=[]) as response:
        assert await response.json() == {"queued": 1}


async def test_a_bad_directive_is_refused(provider: Provider) -> None:
    """In OpenAI's error shape."""
    async with provider.ask('@script {"txt": "x"} hi') as response:
        assert response.status == 400
        error = (await response.json())["error"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_script", "txt")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/v1/nothing", 404, "unknown_url"), ("GET", "/v1/responses", 405, "method_not_supported")],
)
async def test_unknown_calls_are_refused_and_recorded(
    provider: Provider, method: str, path: str, status: int, code: str
) -> None:
    """In OpenAI's error shape."""
    async with provider.session.request(method, path) as response:
        assert response.status == status
        assert (await response.json())["error"]["code"] == code
    assert (await provider.record())["path"] == path


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff"])
async def test_a_body_that_is_no_object_is_refused(provider: Provider, body: bytes) -> None:
    """As OpenAI does."""
    async with provider.session.post("/v1/responses", data=body) as response:
        assert response.status == 400
        assert (await response.json())["error"]["code"] == "invalid_json"


async def test_the_journal_is_bounded() -> None:
    """By number and by memory, the newest stay."""
    journal = Journal(max_records=3, max_body_bytes=10)
    request = make_mocked_request("POST", "/v1/responses")
    for body in (b"1", b"2", b"3", b"4"):
        journal.open(request, body, received_at=0)
    assert [record.as_json()["body"] for record in journal.list()] == [2, 3, 4]
    journal.open(request, b"[1,2,3,4]", received_at=0)
    assert [record.as_json()["body"] for record in journal.list()] == [4, [1, 2, 3, 4]]
    journal.open(request, b'"more than ten bytes"', received_at=0)
    assert [record.as_json()["body"] for record in journal.list()] == ["more than ten bytes"]


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "::", "example.com", ""])  # noqa: S104 - must be refused
async def test_only_loopback_is_served(host: str) -> None:
    """Whoever reaches the control endpoints may do anything."""
    with pytest.raises(ValueError, match="loopback"):
        async with serving(host=host, port=0):
            pass
    with pytest.raises(ValueError, match="loopback"):
        run(host=host, port=0)


async def test_a_busy_port_ends_with_one_message() -> None:
    """And exit code 1, no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", RUN, str(port), stderr=asyncio.subprocess.PIPE
        )
        _, stderr = await process.communicate()
    assert process.returncode == 1
    assert stderr.decode().count("\n") == 1
    assert str(port) in stderr.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_process_ends_with_streams_open(number: signal.Signals) -> None:
    """Silent and busy streams are cut instead of waited for, nothing is printed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUN, str(port), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    scripts = ('{"terminal":"hang"}', '{"tokens":1000}')
    writers = [(await _open_stream(port, script))[1] for script in scripts]
    try:
        await _expect_reset(port)
        process.send_signal(number)
        async with asyncio.timeout(30):  # the busy stream alone would take longer
            stdout, _ = await process.communicate()
        assert (process.returncode, stdout) == (0, b"")
    finally:
        for writer in writers:
            writer.close()


async def _expect_reset(port: int) -> None:
    """The running process has another event loop than the tests; its resets are real as well."""
    reader, writer = await _open_stream(port, '{"text":"x","terminal":"reset"}')
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    with contextlib.suppress(ConnectionResetError):
        await writer.wait_closed()


async def _open_stream(port: int, script: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask a provider that may still be starting; returns after the first delta's event line."""
    body = json.dumps({"stream": True, "input": f"@script {script}"})
    for _ in range(500):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.02)
            continue
        writer.write(f"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        await reader.readuntil(b"response.output_text.delta")
        return reader, writer
    raise AssertionError("the provider did not start")
