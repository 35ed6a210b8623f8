"""What the API process opens before its first request, in order, and closes after its last one, in reverse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial

from fastapi import FastAPI

from api.attachments.permits import UploadPermits
from api.attachments.thumbnails import Thumbnailer
from api.auth import Authenticator, create_authenticator
from api.context import ApiContext
from api.limits import places
from api.limits.limiter import Limiter
from api.limits.places import Places
from api.turns.audience import Audience
from api.turns.follow import TurnFollower
from api.turns.live import LiveFeed
from shared.attachments.gauges import measure_attachments
from shared.clock import Clock, SystemClock
from shared.db.engine import open_database
from shared.db.measured import measure_statements
from shared.events.log import EventLog
from shared.ids import process_name
from shared.metrics import Metrics, serve_metrics
from shared.model_catalog.holder import CatalogHolder
from shared.model_catalog.source import load_catalog
from shared.outbox.gauges import measure_outbox
from shared.periodic import every
from shared.policy.file_source import FilePolicySource
from shared.providers.client import ProviderClients
from shared.providers.storage import ProviderStorages
from shared.queue.queue import JobQueue
from shared.settings import Settings
from shared.tasks import BackgroundTasks
from shared.trace import exporting
from shared.turns.finalize import TurnFinalizer
from shared.turns.gauges import GAUGE_INTERVAL, measure_turns
from shared.turns.presence import HEARTBEAT_INTERVAL, Presence
from shared.turns.stop import TurnStopper
from shared.valkey.client import open_valkey
from shared.valkey.eviction import warn_of_eviction


def lifespan_of(
    settings: Settings, *, clock: Clock | None = None
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """The lifespan of an application with `settings`.

    Raises:
        ConfigurationError: at once, if the catalog or the source of keys cannot be used.
    """
    authenticator = create_authenticator(settings.auth)
    catalog = CatalogHolder(load_catalog(settings))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_context(settings, authenticator, catalog, clock or SystemClock()) as context:
            app.state.context = context
            yield

    return lifespan


@asynccontextmanager
async def open_context(
    settings: Settings, authenticator: Authenticator, catalog: CatalogHolder, clock: Clock
) -> AsyncIterator[ApiContext]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(exporting(settings.tracing, process="api"))
        metrics = Metrics(settings.metrics.prefix)
        await stack.enter_async_context(
            serve_metrics(metrics, host=settings.host, port=settings.metrics.api_port, key="metrics.api_port")
        )
        engine, sessions = await stack.enter_async_context(open_database(settings.database))
        measure_statements(engine, metrics)
        clients = ProviderClients(
            catalog.loaded.providers,
            on_circuit_open=lambda provider_id: metrics.provider_circuit_open.labels(provider=provider_id).inc(),
        )
        stack.push_async_callback(clients.aclose)
        policies = FilePolicySource(
            settings,
            catalog,
            sessions=sessions,
            clock=clock,
            on_change=lambda loaded: clients.replace(loaded.providers),
        )
        await policies.start()
        valkey = await stack.enter_async_context(open_valkey(settings.redis))
        log = EventLog(valkey, settings)
        draining = asyncio.Event()
        process = process_name()
        presence = Presence(valkey, process=process)
        stream_places = Places(valkey, process=process)
        stack.push_async_callback(stream_places.aclose)
        stopper = TurnStopper(
            sessions=sessions,
            finalizer=TurnFinalizer(sessions, policies, settings, metrics),
            valkey=valkey,
            log=log,
            clock=clock,
            metrics=metrics,
        )
        audience = Audience(presence, stopper, grace_secs=settings.streaming.disconnect_grace_secs, draining=draining)
        stack.push_async_callback(audience.aclose)
        live = LiveFeed(
            valkey,
            capacity=settings.streaming.sse_channel_capacity,
            is_fast=settings.relay.fast_path,
            on_lag=metrics.relay_lag_ms.observe,
        )
        followers = TurnFollower(sessions)
        background = BackgroundTasks()
        stack.push_async_callback(background.aclose)
        background.spawn(policies.keep_current(), name="catalog reload")
        background.spawn(warn_of_eviction(valkey), name="look at the eviction")
        background.spawn(live.run(), name="live feed")
        background.spawn(followers.run(), name="turn follower")
        background.spawn(every(HEARTBEAT_INTERVAL, audience.renew, name="presence"), name="presence")
        background.spawn(every(places.HEARTBEAT_INTERVAL, stream_places.renew, name="places"), name="places")
        background.spawn(every(GAUGE_INTERVAL, partial(measure_turns, sessions, metrics), name="gauges"), name="gauges")
        outbox_gauges = every(GAUGE_INTERVAL, partial(measure_outbox, sessions, metrics), name="outbox gauges")
        background.spawn(outbox_gauges, name="outbox gauges")
        file_gauges = every(GAUGE_INTERVAL, partial(measure_attachments, sessions, metrics), name="file gauges")
        background.spawn(file_gauges, name="file gauges")
        yield ApiContext(
            settings=settings,
            engine=engine,
            sessions=sessions,
            valkey=valkey,
            log=log,
            queue=JobQueue(valkey, settings),
            live=live,
            followers=followers,
            audience=audience,
            stopper=stopper,
            storages=ProviderStorages(clients, metrics),
            upload_permits=UploadPermits(settings.rag.max_concurrent_uploads),
            thumbnails=Thumbnailer(settings.thumbnail),
            limiter=Limiter(valkey, sessions, settings, stream_places),
            catalog=catalog,
            policies=policies,
            clock=clock,
            authenticator=authenticator,
            metrics=metrics,
            draining=draining,
        )
