"""One supervised process: started, listened to, started again when it dies, stopped on request."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from signal import Signals

from shared.embedded.tether import can_tether, tethered_command
from shared.run.output import LineSplitter, Output

HEALTHY_AFTER_SECS = 10.0
EXIT_CONFIGURATION = 2
"""What our commands end with when they cannot use their configuration: trying again would not help."""
_READ_BYTES = 65_536
# A process may leave children of its own that keep its output open; we do not wait for those.
_LAST_WORDS_SECS = 1.0


@dataclass(frozen=True)
class Command:
    """What to start."""

    arguments: Sequence[str]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Stage:
    """One step of an orderly stop: a signal, and how long to wait for its effect."""

    signal: Signals
    seconds: float


class Backoff:
    """Seconds to wait before the next start: doubling from `first` to `longest`, and afresh after a healthy life."""

    def __init__(self, *, first: float = 0.2, longest: float = 5.0, healthy_after: float = HEALTHY_AFTER_SECS) -> None:
        self._first = first
        self._longest = longest
        self._healthy_after = healthy_after
        self._next = first

    def next_delay(self, *, lived: float) -> float:
        """The wait after a life of `lived` seconds."""
        if lived >= self._healthy_after:
            self._next = self._first
        delay = self._next
        self._next = min(self._next * 2, self._longest)
        return delay


class Child:
    """See the module. `supervise` runs until `stop`; cancelling it kills the process."""

    def __init__(
        self,
        name: str,
        *,
        command: Callable[[], Command],
        output: Output,
        on_start: Callable[[], None] = lambda: None,
        on_refusal: Callable[[str], None] = lambda _: None,
        backoff: Backoff | None = None,
    ) -> None:
        """
        Args:
            command: asked before each start, so that a restart may differ (another port).
            on_start: called after each start, when `pid` is known.
            on_refusal: called once, instead of a restart, when the process never became healthy and refuses its
                configuration or cannot be started at all.
        """
        self.name = name
        self._command = command
        self._output = output
        self._on_start = on_start
        self._on_refusal = on_refusal
        self._backoff = backoff or Backoff()
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._stop_signal = Signals.SIGTERM
        self._was_healthy = False

    @property
    def pid(self) -> int | None:
        """Process id of the current life; None between two lives."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def supervise(self) -> None:
        """Keep it running until `stop`."""
        try:
            while not self._stopping.is_set():
                began = time.monotonic()
                code = await self.run_once()
                lived = time.monotonic() - began
                self._was_healthy = self._was_healthy or lived >= HEALTHY_AFTER_SECS
                if self._stopping.is_set():
                    return
                if code is None or (code == EXIT_CONFIGURATION and not self._was_healthy):
                    self._on_refusal(self.name)
                    return
                delay = self._backoff.next_delay(lived=lived)
                self._output.say(f"{self.name} ended ({describe_exit(code)}), starting again in {delay:.1f} s")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._stopping.wait()
        finally:
            self._ended.set()

    async def run_once(self) -> int | None:
        """One life; its exit code, negative for a signal, None if it could not be started."""
        command = self._command()
        read, write = os.pipe()
        # The pipe is ours, not asyncio's, so that its end is in our hands when somebody else keeps it open.
        lines = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lines), os.fdopen(read, "rb", buffering=0)
        )
        try:
            process = await self._start(command, write)
            if process is None:
                return None
            async with asyncio.TaskGroup() as group:
                forwarding = group.create_task(self._forward(lines), name=f"output of {self.name}")
                code = await self._wait(process)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LAST_WORDS_SECS):
                        await asyncio.shield(forwarding)
                forwarding.cancel()
            return code
        finally:
            transport.close()

    async def stop(self, stages: Sequence[Stage]) -> None:
        """End it for good, stage by stage, and kill it after the last; returns when it is gone."""
        self._stopping.set()
        for stage in stages:
            self._stop_signal = stage.signal
            self._send(stage.signal)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(stage.seconds):
                    await self._ended.wait()
            if self._ended.is_set():
                return
        self.kill()
        await self._ended.wait()

    def kill(self) -> None:
        """Kill it and whatever it started, for good."""
        self._stopping.set()
        self._stop_signal = Signals.SIGKILL
        pid = self.pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)

    async def _start(self, command: Command, output: int) -> asyncio.subprocess.Process | None:
        arguments = list(command.arguments)
        if can_tether():
            # It must not linger on a port, without engines, when we are killed: the log and leases cover its work.
            arguments = tethered_command(arguments, death_signal=Signals.SIGKILL)
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *arguments,
                env=command.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # a terminal's Ctrl-C is for us, and we stop our children in order
            )
        except OSError as error:
            self._output.say(f"{self.name} cannot be started: {error}")
            return None
        finally:
            os.close(output)
        if self._stopping.is_set():  # while it was being started
            self._send(self._stop_signal)
        else:
            self._on_start()
        return process

    async def _wait(self, process: asyncio.subprocess.Process) -> int:
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                self.kill()
                await process.wait()

    async def _forward(self, stream: asyncio.StreamReader) -> None:
        splitter = LineSplitter()
        try:
            while data := await stream.read(_READ_BYTES):
                for line in splitter.feed(data):
                    self._output.write_line(self.name, line)
        finally:
            for line in splitter.end():
                self._output.write_line(self.name, line)

    def _send(self, number: Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


def describe_exit(code: int | None) -> str:
    if code is None:
        return "not started"
    return f"signal {Signals(-code).name}" if code < 0 else f"exit code {code}"
