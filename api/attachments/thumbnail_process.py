"""A process that makes one thumbnail and ends: `image on stdin -> stdout`, with the limits as JSON in its argument.

It decodes what strangers have sent, so it is apart: it has a budget of memory and time of its own, the first to go when
memory runs out, the last to be served when the processor is busy, and it holds no connection and no secret. It is run
as a file and imports nothing of ours, which keeps its start short.

    stdout   "<width> <height>\\n", then the WebP. Exit code 0, or else there is no thumbnail.
"""

from __future__ import annotations

import io
import json
import os
import resource
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from PIL import GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

FORMATS: Final = tuple(
    plugin.format
    for plugin in (
        PngImagePlugin.PngImageFile,
        JpegImagePlugin.JpegImageFile,
        WebPImagePlugin.WebPImageFile,
        GifImagePlugin.GifImageFile,
    )
)
"""Only these decoders are ever loaded."""
CPU_SECS: Final = 10
COPIES: Final = 3
"""Of the decoded image that may be there at once: the decoder's, its result, and one in another mode."""
QUALITY: Final = 80

# How an image lies is said by its EXIF data: what has to be done, in the order of the values from 2 on.
_ORIENTATION: Final = 0x0112
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LYING: Final = frozenset({5, 6, 7, 8})


def make_thumbnail(
    source: BinaryIO, *, width: int, height: int, max_bytes: int, max_pixels: int, max_decode_bytes: int
) -> tuple[int, int, bytes]:
    """The first frame, upright, fit into `width` and `height` and never enlarged: its size, and the WebP.

    Raises:
        ValueError: the image, or its thumbnail, is larger than it may be.
        Exception: whatever Pillow has to say of an image that is none.
    """
    Image.MAX_IMAGE_PIXELS = None  # the limits are ours
    with Image.open(source, formats=FORMATS) as image:
        pixels = image.width * image.height
        if pixels > max_pixels or pixels * 4 > max_decode_bytes:
            raise ValueError("too many pixels")
        orientation = _orientation_of(image)
        box = (height, width) if orientation in _LYING else (width, height)
        image.draft("RGB", box)  # JPEG is scaled down while it is decoded
        small = _resizable(image)
        small.thumbnail(box)
        if orientation in _TURNS:
            small = small.transpose(_TURNS[orientation])
        out = io.BytesIO()
        small.convert("RGBA" if small.has_transparency_data else "RGB").save(out, "WEBP", quality=QUALITY)
    if out.tell() > max_bytes:
        raise ValueError("the thumbnail is too large")
    return small.width, small.height, out.getvalue()


def _orientation_of(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) else 1


def _resizable(image: Image.Image) -> Image.Image:
    """The image in a mode whose pixels can be averaged."""
    if image.mode in {"P", "1"}:
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode.startswith("I"):  # 16 bits a pixel; a plain conversion would cut off all that is bright
        return image.convert("I").point(lambda value: value / 256).convert("L")
    return image


def _limit(max_decode_bytes: int) -> None:
    """Bound what this process may take, from what it has already. Not every system knows every limit."""
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECS, CPU_SECS))
    with suppress(OSError, ValueError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + COPIES * max_decode_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> None:
    settings: dict[str, int] = json.loads(sys.argv[1])
    _limit(settings["max_decode_bytes"])
    warnings.simplefilter("ignore")  # of odd metadata
    width, height, data = make_thumbnail(sys.stdin.buffer, **settings)
    sys.stdout.buffer.write(b"%d %d\n" % (width, height) + data)


if __name__ == "__main__":
    try:
        main()
    except Exception:
        sys.exit(1)
