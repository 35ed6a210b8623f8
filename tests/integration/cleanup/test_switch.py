"""What `cleanup_worker.enabled` switches: whole workers, without and with it."""

from __future__ import annotations

from pathlib import Path

from shared.settings import Settings
from tests.integration.cleanup.scene import Scene
from tests.integration.outbox.deliveries import running
from tests.support.api import api_settings
from tests.support.catalogs import acceptance_catalog, write_catalog
from tests.support.outbox_rows import count_undelivered, insert_messages, stored_messages
from tests.support.waiting import wait_until
from worker.lifespan import open_worker

NOTHING: tuple[set[str], set[str]] = (set(), set())


async def test_cleanups_wait_while_they_are_switched_off(
    scene: Scene, database_url: str, valkey_url: str, tmp_path: Path
) -> None:
    """Their messages stay as they are; those of other queues are delivered all the same."""
    catalog = write_catalog(acceptance_catalog(provider_port=scene.provider.port), tmp_path)

    def settings(*, enabled: bool) -> Settings:
        return api_settings(
            database_url=database_url,
            valkey_url=valkey_url,
            catalog={"path": catalog, "reload_secs": 0},
            cleanup_worker={"enabled": enabled},
        )

    chat_id = await scene.add_chat()
    await scene.delete_chat(chat_id)
    held = await scene.provider.held()
    await insert_messages(scene.sessions, "later", queue="usage_snapshot")

    async def is_usage_delivered() -> bool:
        return (await stored_messages(scene.sessions))[-1].delivered_at is not None

    async with open_worker(settings(enabled=False)) as worker, running(worker.outbox):
        await wait_until(is_usage_delivered)
    [message, _] = await stored_messages(scene.sessions)
    assert (message.attempts, message.delivered_at) == (0, None)
    assert await scene.provider.held() == held
    assert await scene.statuses(chat_id) == ["pending"] * 2

    async def is_all_delivered() -> bool:
        return await count_undelivered(scene.sessions) == 0

    async with open_worker(settings(enabled=True)) as worker, running(worker.outbox):
        await wait_until(is_all_delivered)
    assert await scene.provider.held() == NOTHING
    assert await scene.statuses(chat_id) == ["done"] * 2
