"""Stands in for `mini-chat <command>`: quick to start, tells what it is told, and misbehaves on request.

A file `<command>.exit` in the folder named by DUMMY_DIR makes the command end at once with the exit code in it;
`<command>.stubborn` makes it ignore signals.
"""

from __future__ import annotations

import http.server
import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def tell(text: str) -> None:
    os.write(1, text.encode() + b"\n")


def end(number: int, frame: FrameType | None) -> None:
    tell(f"ending on {signal.Signals(number).name}")
    os._exit(0)


def main() -> None:
    command, folder = sys.argv[1], Path(os.environ["DUMMY_DIR"])
    variables = {name: value for name, value in os.environ.items() if name.startswith("MINI_CHAT_")}
    (folder / f"{command}.environment").write_text(json.dumps(variables))
    is_stubborn = (folder / f"{command}.stubborn").exists()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN if is_stubborn else end)
    exit_file = folder / f"{command}.exit"
    if exit_file.exists():
        raise SystemExit(int(exit_file.read_text()))
    words = json.dumps({"arguments": sys.argv[1:]}).encode() + b"\n"
    if command == "worker":
        words += b'{"message":"gr\xc3\xbc\xc3\x9fe \xff"}\r\nno line end'
    # At once, after everything above: who reads it knows that all is set up.
    os.write(2, words)
    if command == "migrate":
        return
    if command == "api":
        port = int(sys.argv[sys.argv.index("--port") + 1])
        http.server.ThreadingHTTPServer(("127.0.0.1", port), Health).serve_forever()
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
