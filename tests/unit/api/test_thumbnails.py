"""Thumbnails of good, odd and hostile images; each is made in a process of its own."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from PIL import Image

from api.attachments import thumbnails
from api.attachments.thumbnails import Thumbnail, Thumbnailer
from shared.settings import ThumbnailSettings
from tests.support.uploads import image

Make = Callable[..., Any]


def png_of(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG whose header says how large it is; what follows it need not be true."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    """A PNG whose comment unpacks to 200 MB."""
    comment = zlib.compress(b"\0" * 200_000_000, 9)
    content = b"Comment\0\0" + comment
    chunk = struct.pack(">I", len(content)) + b"zTXt" + content + struct.pack(">I", zlib.crc32(b"zTXt" + content))
    whole = image()
    return whole[:33] + chunk + whole[33:]


@pytest.fixture
async def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    # However busy the machine is: what an image may cost is bounded by the processor's time too.
    monkeypatch.setattr(thumbnails, "TIMEOUT_SECS", 60)
    files: list[BinaryIO] = []

    async def make_of(content: bytes, **settings: int) -> Thumbnail | None:
        path = tmp_path / "image"
        path.write_bytes(content)
        files.append(path.open("rb"))
        return await Thumbnailer(ThumbnailSettings(**settings)).make(files[-1], size_bytes=len(content))

    yield make_of
    for file in files:
        file.close()


def decoded(thumbnail: Thumbnail | None) -> Image.Image:
    assert thumbnail is not None
    found = Image.open(io.BytesIO(thumbnail.data))
    assert found.format == "WEBP"
    assert found.size == (thumbnail.width, thumbnail.height)
    found.load()
    return found


def pixel_of(picture: Image.Image, place: tuple[int, int]) -> tuple[int, ...]:
    pixel = picture.convert("RGB").getpixel(place)
    assert isinstance(pixel, tuple)
    return pixel


def is_near(pixel: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Compression changes colors a little."""
    return max(abs(one - other) for one, other in zip(pixel, wanted, strict=True)) <= 8


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((300, 200), (128, 85)),
        ((200, 300), (85, 128)),
        ((40, 30), (40, 30)),
        ((1, 1_000), (1, 128)),
        ((128, 128), (128, 128)),
    ],
)
async def test_the_whole_image_fits_and_is_never_enlarged(
    make: Make, size: tuple[int, int], shown: tuple[int, int]
) -> None:
    assert decoded(await make(image(size=size))).size == shown


@pytest.mark.parametrize(
    ("mode", "file_format", "color", "shown"),
    [
        ("L", "PNG", 200, (200, 200, 200)),
        ("1", "PNG", 1, (255, 255, 255)),
        ("P", "GIF", 0, (0, 0, 0)),
        ("I;16", "PNG", 0x8000, (128, 128, 128)),
        ("CMYK", "JPEG", (0, 255, 255, 0), (255, 0, 0)),
        ("RGB", "WEBP", (0, 0, 255), (0, 0, 255)),
        ("LA", "PNG", (100, 255), (100, 100, 100)),
        ("RGBA", "PNG", (0, 255, 0, 255), (0, 255, 0)),
    ],
)
async def test_every_mode_is_shown(make: Make, mode: str, file_format: str, color: Any, shown: tuple[int, ...]) -> None:
    out = io.BytesIO()
    Image.new(mode, (300, 200), color).save(out, file_format)
    assert is_near(pixel_of(decoded(await make(out.getvalue())), (60, 40)), shown)


async def test_what_is_transparent_stays_so(make: Make) -> None:
    assert decoded(await make(image("RGBA"))).getpixel((10, 10)) == (0, 0, 0, 0)


async def test_an_animation_shows_its_first_frame(make: Make) -> None:
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]
    for file_format in ("GIF", "WEBP"):
        out = io.BytesIO()
        frames[0].save(out, file_format, save_all=True, append_images=frames[1:])
        assert is_near(pixel_of(decoded(await make(out.getvalue())), (32, 32)), (255, 0, 0))


async def test_it_stands_upright(make: Make) -> None:
    lying = Image.new("RGB", (400, 100), "black")
    lying.paste("white", (0, 0, 200, 100))
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    lying.save(out, "JPEG", exif=exif)
    upright = decoded(await make(out.getvalue()))
    assert upright.size == (32, 128)
    assert is_near(pixel_of(upright, (16, 20)), (255, 255, 255))
    assert is_near(pixel_of(upright, (16, 108)), (0, 0, 0))


async def test_odd_metadata_does_no_harm(make: Make) -> None:
    assert decoded(await make(image(file_format="JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"))).size == (128, 85)


async def test_a_file_that_is_two_things_is_the_image_that_it_says(make: Make) -> None:
    assert decoded(await make(image() + b"PK\x03\x04 and the rest of an archive")).size == (128, 85)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an image",
        b"%PDF-1.7",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"P6 60000 60000 255 ",
        image()[:60],
        image(file_format="JPEG", size=(2_000, 2_000))[:2_000],
        png_of(100_000, 100_000),
        png_of(5_793, 5_793),
        png_of(5_700, 5_700),
        png_of(0, 10),
        text_bomb(),
    ],
    ids=[
        "empty",
        "text",
        "pdf",
        "svg",
        "ppm",
        "cut png",
        "cut jpeg",
        "bomb",
        "over the budget",
        "liar",
        "flat",
        "text bomb",
    ],
)
async def test_hostile_files_have_no_thumbnail(make: Make, content: bytes) -> None:
    assert await make(content) is None


async def test_the_largest_image_that_may_be_decoded_is(make: Make) -> None:
    assert decoded(await make(image("RGBA", (5_790, 5_790)))).size == (128, 128)


async def test_the_limits_are_those_of_the_settings(make: Make) -> None:
    content = image(size=(300, 200))
    assert decoded(await make(content, width=30, height=60)).size == (30, 20)
    assert await make(content, max_pixels=59_999) is None
    assert await make(content, max_decode_bytes=300 * 200 * 4 - 1) is None
    assert await make(content, max_decode_bytes=len(content) - 1) is None
    assert await make(content, max_bytes=20) is None


async def test_a_decoder_that_does_not_end_is_ended(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "TIMEOUT_SECS", 0.001)
    assert await make(image()) is None
