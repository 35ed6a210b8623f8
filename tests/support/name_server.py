"""A name server for tests: it tells the addresses that it is given, and they can change."""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final, cast

from shared.embedded.ports import LOOPBACK

_HEADER: Final = struct.Struct("!HHHHHH")
_ANSWERS_AUTHORITATIVELY: Final = 0x8400
_A: Final = 1
_POINTER_TO_QUESTION: Final = 0xC00C
_TTL_SECS: Final = 1


class NameServer(asyncio.DatagramProtocol):
    """Gives `addresses` for every name. Source: RFC 1035, section 4."""

    def __init__(self, addresses: Iterable[str]) -> None:
        self.addresses = list(addresses)
        self.port = 0
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        self._transport.sendto(self._answer(data), addr)

    def _answer(self, query: bytes) -> bytes:
        end_of_name = query.index(0, _HEADER.size) + 1
        question = query[_HEADER.size : end_of_name + 4]
        kind = int.from_bytes(query[end_of_name : end_of_name + 2], "big")
        records = [
            struct.pack("!HHHIH", _POINTER_TO_QUESTION, _A, 1, _TTL_SECS, 4) + ipaddress.IPv4Address(address).packed
            for address in self.addresses
            if kind == _A
        ]
        header = _HEADER.pack(int.from_bytes(query[:2], "big"), _ANSWERS_AUTHORITATIVELY, 1, len(records), 0, 0)
        return header + question + b"".join(records)


@asynccontextmanager
async def name_server(*addresses: str) -> AsyncIterator[NameServer]:
    """A name server on a free port of loopback, for the length of the block."""
    server = NameServer(addresses)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: server, local_addr=(LOOPBACK, 0))
    try:
        yield server
    finally:
        transport.close()
