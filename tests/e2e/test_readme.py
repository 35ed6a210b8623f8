"""The session in the README does what it says, pasted as it stands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.embedded.ports import find_free_port
from tests.support.engines import temporary_data_dir
from tests.support.settings_reference import README
from tests.support.sse import Event, SseParser

START_TIMEOUT_SECS = 60
STOP_TIMEOUT_SECS = 30


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Of the API of a `mini-chat run`."""
    port = find_free_port()
    with temporary_data_dir() as data_dir, (tmp_path / "run.log").open("wb") as log:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("MINI_CHAT_", "OPENAI_"))
        } | {"MINI_CHAT_DATA_DIR": str(data_dir)}
        run = subprocess.Popen(
            [sys.executable, "-m", "shared.cli", "run", "--port", str(port)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + START_TIMEOUT_SECS
            while not (data_dir / "run.json").exists():
                assert run.poll() is None, (tmp_path / "run.log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "run.log").read_text()
                time.sleep(0.05)
            yield port
        finally:
            run.terminate()
            run.wait(STOP_TIMEOUT_SECS)


def test_the_session_works_when_pasted(port: int, tmp_path: Path) -> None:
    [session] = re.findall(r"^```bash\n(API=.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    script = session.replace("127.0.0.1:8080", f"127.0.0.1:{port}").replace('"$(mktemp -d)"', f"'{tmp_path}'")
    bash = shutil.which("bash")
    assert bash is not None
    # From standard input, as a terminal would get it.
    result = subprocess.run([bash, "-s"], input=script, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")

    first, rest, again = (_events(tmp_path / name) for name in ("first.txt", "rest.txt", "again.txt"))
    assert first[0].name == "stream_started"
    assert first
    # However many deltas a busy worker has merged into one.
    assert [event.id for event in first + rest] == ["0-1", *(f"1-{seq}" for seq in range(1, len(first + rest)))]
    assert rest[-1].name == "done"

    question, answer = json.loads((tmp_path / "messages.txt").read_text())["items"]
    assert (question["role"], answer["role"]) == ("user", "assistant")
    assert (tmp_path / "both.txt").read_text() == answer["content"] + "\n"
    assert json.loads((tmp_path / "turn.txt").read_text())["state"] == "done"
    assert [event.name for event in again] == ["stream_started", "delta", "done"]
    assert again[1].data["content"] == answer["content"]


def _events(path: Path) -> list[Event]:
    return SseParser().feed(path.read_text())
