"""One terminal for many processes: whole lines, each after the name of the process that wrote it.

Bytes pass through unchanged and at once. A reader that is gone (a closed terminal, `| head`) must not end the system:
output then goes nowhere. A reader that merely stops holds the writers up, as any pipe does.
"""

from __future__ import annotations

import os

NAME_WIDTH = 9
_LONGEST_LINE_BYTES = 1 << 20


class Output:
    """Writes lines to a file descriptor; standard output unless told otherwise."""

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self._is_open = True

    def write_line(self, name: str, line: bytes) -> None:
        """Write one line, given without its line end."""
        self._write(f"{name:<{NAME_WIDTH}} | ".encode() + line + b"\n")

    def say(self, text: str) -> None:
        """Write the supervisor's own words."""
        for line in text.splitlines():
            self.write_line("run", line.encode())

    def show(self, text: str) -> None:
        """Write a text as it is, without a name."""
        self._write(text.encode() + b"\n")

    def _write(self, data: bytes) -> None:
        try:
            while data and self._is_open:
                data = data[os.write(self._descriptor, data) :]
        except BlockingIOError:
            os.set_blocking(self._descriptor, True)
            self._write(data)
        except OSError:
            self._is_open = False


class LineSplitter:
    """Cuts a stream of bytes into lines; an endless line is cut at 1 MiB."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now, without their line ends."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
        return lines

    def end(self) -> list[bytes]:
        """What came after the last line end."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []
