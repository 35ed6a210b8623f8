"""Atomic steps as Lua scripts: one file each, whose head states its keys, arguments and answers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from redis.exceptions import NoScriptError

from shared.valkey.client import Valkey

Argument = str | bytes | int


class Script:
    """A script by the name of its file. The server keeps it by its digest and forgets it at a restart."""

    def __init__(self, name: str) -> None:
        self.text = resources.files(__package__).joinpath(f"{name}.lua").read_text(encoding="utf-8")
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, valkey: Valkey, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        operands = (len(keys), *keys, *arguments)
        try:
            return await valkey.execute_command("EVALSHA", self.digest, *operands)
        except NoScriptError:
            return await valkey.execute_command("EVAL", self.text, *operands)

    def call(self, keys: Sequence[str], arguments: Sequence[Argument]) -> ScriptCall:
        return ScriptCall(self, tuple(keys), tuple(arguments))


@dataclass(frozen=True)
class ScriptCall:
    script: Script
    keys: tuple[str, ...]
    arguments: tuple[Argument, ...]

    @property
    def operands(self) -> tuple[Argument, ...]:
        return (len(self.keys), *self.keys, *self.arguments)


async def run_scripts(valkey: Valkey, calls: Sequence[ScriptCall]) -> list[Any]:
    """Run the calls in order in one round trip; not atomic together.

    Raises:
        RedisError: the first error of a call; the calls after it may have run.
    """
    async with valkey.pipeline(transaction=False) as pipeline:
        for call in calls:
            pipeline.execute_command("EVALSHA", call.script.digest, *call.operands)
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
    for index, call in enumerate(calls):
        if isinstance(answers[index], NoScriptError):
            answers[index] = await valkey.execute_command("EVAL", call.script.text, *call.operands)
        if isinstance(answers[index], Exception):
            raise answers[index]
    return answers
