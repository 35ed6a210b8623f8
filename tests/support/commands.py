"""Running an operator's command as a user does, but in the test's own process, which is a second faster."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from unittest import mock

from shared import cli
from shared.settings import Settings


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


async def mini_chat(*arguments: object, variables: Mapping[str, str] | None = None) -> Outcome:
    """Run `mini-chat` with these arguments, and these variables (without their prefix) as its only configuration."""
    return await asyncio.to_thread(_run, [str(argument) for argument in arguments], variables or {})


def variables_of(settings: Settings, **others: str) -> dict[str, str]:
    """What a command needs to work on the servers of `settings`."""
    assert settings.database.url is not None
    assert settings.redis.url is not None
    return {
        "DATABASE__URL": settings.database.url.get_secret_value(),
        "REDIS__URL": settings.redis.url.get_secret_value(),
    } | others


def _run(arguments: list[str], variables: Mapping[str, str]) -> Outcome:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MINI_CHAT_", "OPENAI_"))}
    environment |= {f"MINI_CHAT_{name}": value for name, value in variables.items()}
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, environment, clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = cli.main(arguments)
        except SystemExit as end:  # of argparse
            code = int(end.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())
