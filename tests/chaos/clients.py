"""Clients that behave as real ones do on a bad day: they leave, come back with their cursor, stop, retry and edit."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from shared.ids import new_uuid4
from tests.support.sse import Event, SseParser
from tests.support.tokens import Caller
from tests.support.turns import events_path, scripted, send_path, turn_path

SILENCE_SECS = 12.0
"""A stream that says nothing for longer, not even a keep-alive, is taken for dead: it may be half open."""
GIVE_UP_SECS = 90.0


@dataclass
class Told:
    """A turn as its client has lived it."""

    chat_id: str
    request_id: str
    marker: str
    text: str | None
    """What the provider's script says, if it lets the turn complete."""
    on_worker_loss: str
    events: list[Event] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    connections: int = 0
    is_stopped: bool = False
    is_retry: bool = False
    """It asks the question of the turn whose place it took, so that the provider has been asked it before."""
    is_refused: bool = False
    """No replica ever took it: it must have left no trace."""

    @property
    def history(self) -> str:
        """For people: what came, in short."""
        ids = " ".join(f"{event.id}:{event.name}" for event in self.events)
        return f"  turn {self.request_id}, {self.connections} connections: {ids[:600]}"

    @property
    def has_ended(self) -> bool:
        return bool(self.events) and self.events[-1].is_terminal


class Client:
    """One user with one chat at a time, behind the balancer."""

    def __init__(self, base_url: str, randomness: random.Random) -> None:
        self._random = randomness
        self._http = httpx.AsyncClient(
            base_url=base_url,
            headers=Caller().headers,
            timeout=httpx.Timeout(10, read=SILENCE_SECS),
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        self.told: list[Told] = []

    async def aclose(self) -> None:
        await self._http.aclose()

    async def live(self, turns: int) -> None:
        """Take `turns` turns, in chats of one to three each."""
        chat_id, left_in_chat = "", 0
        for _ in range(turns):
            if left_in_chat == 0:
                chat_id, left_in_chat = await self._create_chat(), self._random.randint(1, 3)
            left_in_chat -= 1
            await self._take_turn(chat_id)

    async def _create_chat(self) -> str:
        while True:
            answer = await self._request("POST", "/chats", json={})
            if answer is not None and answer.status_code == httpx.codes.CREATED:
                chat_id: str = answer.json()["id"]
                return chat_id
            await asyncio.sleep(0.2)

    async def _take_turn(self, chat_id: str) -> None:
        content, told = self._question(chat_id)
        previous = self._last_in(chat_id)
        method, path, body = "POST", send_path(chat_id), {"content": content, "request_id": told.request_id}
        body |= {"on_worker_loss": told.on_worker_loss, "on_disconnect": "continue"}
        if previous is not None and previous.has_ended and self._random.random() < 0.3:
            query = f"?request_id={told.request_id}&on_worker_loss={told.on_worker_loss}"
            if self._random.random() < 0.5:
                method, path = "PATCH", turn_path(chat_id, previous.request_id) + query
            else:
                method, path = "POST", f"{turn_path(chat_id, previous.request_id)}/retry{query}"
                told.text, told.marker, told.is_retry = previous.text, previous.marker, True
            self.told.remove(previous)  # its messages are gone with it
        self.told.append(told)
        deadline = time.monotonic() + GIVE_UP_SECS
        while not told.has_ended and not told.is_refused:
            assert time.monotonic() < deadline, f"turn {told.request_id} is stuck: {told.events[-3:]}"
            try:
                if told.events:
                    await self._read(told, "GET", events_path(chat_id, told.request_id))
                else:
                    await self._read(told, method, path, json=body)
            except (httpx.TransportError, TimeoutError):
                await asyncio.sleep(self._random.uniform(0.05, 0.3))

    def _question(self, chat_id: str) -> tuple[str, Told]:
        marker = new_uuid4().hex
        count = self._random.randint(5, 80)
        kind = self._random.choices(["text", "slow start", "http error", "reset", "eof", "hang"], [70, 10, 5, 5, 5, 5])[
            0
        ]
        script: dict[str, Any] = {"tokens": count, "rate": self._random.choice([0, 20, 40, 100])}
        text: str | None = "".join(f"w{i} " for i in range(count))
        if kind == "slow start":
            script["delay_ms"] = self._random.randint(200, 2_000)
        elif kind == "http error":
            script, text = {"http_status": self._random.choice([400, 429, 500, 503])}, None
        elif kind != "text":
            script["terminal"], text = kind, None
        told = Told(chat_id, str(new_uuid4()), marker, text, self._random.choice(["restart"] * 4 + ["fail"]))
        return scripted(marker, **script), told

    def _last_in(self, chat_id: str) -> Told | None:
        return self.told[-1] if self.told and self.told[-1].chat_id == chat_id else None

    async def _read(self, told: Told, method: str, path: str, **options: Any) -> None:
        """Open the stream and read it, to the end or to where this client leaves for a while."""
        leave_after = self._random.choice([None, None, self._random.randint(1, 30)])
        stop_after = self._random.randint(1, 40) if self._random.random() < 0.1 else None
        headers = {"Last-Event-ID": told.events[-1].id if told.events else ""}
        told.connections += 1
        async with self._http.stream(method, path, headers=headers, **options) as response:
            if response.status_code != httpx.codes.OK:
                await self._refused(told, response)
                return
            parser, received = SseParser(), 0
            async for chunk in response.aiter_text():
                for event in parser.feed(chunk):
                    told.events.append(event)
                    told.times.append(time.monotonic())
                    received += 1
                    if received == stop_after:
                        await self._stop(told)
                    if received == leave_after:
                        return

    async def _refused(self, told: Told, response: httpx.Response) -> None:
        await response.aread()
        assert response.status_code < 500 or response.status_code == 503, response.text
        code = response.json().get("code") if response.content else None
        if response.status_code == httpx.codes.NO_CONTENT:
            raise AssertionError("204 before the end was seen")
        if code in ("service_unavailable", "generation_in_progress", "invalid_turn_state"):
            await asyncio.sleep(0.2)
            return
        assert code == "not_latest_turn", response.text
        told.is_refused = True

    async def _stop(self, told: Told) -> None:
        answer = await self._request("POST", f"{turn_path(told.chat_id, told.request_id)}/cancel")
        told.is_stopped = True
        assert answer is None or answer.status_code in (200, 202, 503), answer.text

    async def _request(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        try:
            return await self._http.request(method, path, **options)
        except httpx.TransportError:
            return None
