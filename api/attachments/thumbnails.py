"""Makes thumbnails in processes of their own: whatever an image does to its decoder, it does it there."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import BinaryIO, Final

from api.attachments import thumbnail_process
from shared.settings import ThumbnailSettings

MAX_PROCESSES: Final = 2
"""At a time: it is the processor's work, and turns need the processor more."""
TIMEOUT_SECS: Final = 10

_INHERITED: Final = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONPATH")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A WebP."""

    width: int
    height: int
    data: bytes


class Thumbnailer:
    """Starts a process for each image; it reads the file itself, and ends by its own limits if this process dies."""

    def __init__(self, settings: ThumbnailSettings) -> None:
        self._settings = settings
        self._slots = asyncio.Semaphore(MAX_PROCESSES)

    async def make(self, image: BinaryIO, *, size_bytes: int) -> Thumbnail | None:
        """The thumbnail of a file on disk, read from where it stands; None if there can be none. Moves the file."""
        if size_bytes > self._settings.max_decode_bytes:
            return None
        async with self._slots:
            return await asyncio.to_thread(_run, image, json.dumps(self._settings.model_dump()))


def _run(image: BinaryIO, settings: str) -> Thumbnail | None:
    try:
        answer = subprocess.run(  # noqa: S603 (our own file, by our own interpreter)
            [sys.executable, "-P", thumbnail_process.__file__, settings],
            stdin=image,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT_SECS,
            check=True,
            env={name: os.environ[name] for name in _INHERITED if name in os.environ},
        ).stdout
    except (subprocess.SubprocessError, OSError) as error:
        _log.info("no thumbnail: %s", _reason(error))
        return None
    size, _, data = answer.partition(b"\n")
    width, height = size.split()
    return Thumbnail(int(width), int(height), data)


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return f"exit code {error.returncode}"
    return type(error).__name__
