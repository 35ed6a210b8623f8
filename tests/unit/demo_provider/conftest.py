"""A scripted provider on a free loopback port, and a client for it."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from api.demo_provider.main import serving
from tests.unit.demo_provider.driver import Provider


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    """A running provider; its streams are cut when the test ends."""
    async with (
        serving(host="127.0.0.1", port=0) as url,
        aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=10)) as session,
    ):
        yield Provider(url=url, session=session)
