"""Opens what a worker process needs, in order, and closes it in reverse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from shared.clock import Clock, SystemClock
from shared.db.engine import Sessions, open_database
from shared.db.measured import measure_statements
from shared.events.log import EventLog
from shared.health import ReadinessProbe
from shared.ids import process_name
from shared.metrics import Metrics, serve_metrics
from shared.model_catalog.holder import CatalogHolder
from shared.model_catalog.source import load_catalog
from shared.outbox.messages import AUDIT, USAGE_SNAPSHOT
from shared.policy.file_source import FilePolicySource
from shared.providers.client import ProviderClients
from shared.providers.storage import ProviderStorages
from shared.queue.jobs import INDEX_ATTACHMENT, RUN_TURN, SUMMARIZE_DOCUMENT
from shared.queue.queue import JobQueue
from shared.settings import Settings
from shared.trace import exporting
from shared.turns.finalize import TurnFinalizer
from shared.turns.presence import Presence
from shared.turns.stop import TurnStopper
from shared.valkey.client import Valkey, open_valkey
from worker.attachments.failed import FailedAttachments
from worker.attachments.index import INDEXER, Indexer, index_attachment
from worker.attachments.stuck import StuckUploads
from worker.attachments.summarize import SUMMARIZER, DocumentSummarizer, summarize_document
from worker.cleanup.attachment import AttachmentCleanup
from worker.cleanup.chat import ChatCleanup
from worker.cleanup.files import FileCleanup
from worker.cleanup.reconciliation import Reconciliation
from worker.cleanup.removal import Removal
from worker.health import health_routes
from worker.job_loop import JobLoop
from worker.outbox.delivery import Delivery
from worker.outbox.handlers import Handler
from worker.outbox.sinks import SinkHandler, open_sink
from worker.providers.registry import ProviderRegistry
from worker.retention import Purge
from worker.summaries.job import ThreadSummaryJob
from worker.turns.absence import AbsenceWatch
from worker.turns.jobs import RUNNER, run_turn
from worker.turns.leases import LeaseKeeper
from worker.turns.outage import OutageGuard
from worker.turns.plan import TurnPlanner
from worker.turns.runner import TurnRunner
from worker.turns.sweeper import SWEEP_INTERVAL, Sweeper
from worker.turns.warnings import QuotaWarnings
from worker.turns.watchdog import Watchdog


@dataclass(frozen=True)
class WorkerContext:
    """Everything a worker process holds for its life."""

    settings: Settings
    engine: AsyncEngine
    sessions: Sessions
    valkey: Valkey
    leases: LeaseKeeper
    sweeper: Sweeper
    watchdog: Watchdog
    absence: AbsenceWatch
    outbox: Delivery
    purge: Purge
    reconciliation: Reconciliation
    storages: ProviderStorages
    stuck_uploads: StuckUploads
    signal_valkey: Valkey
    """The connection on which stop signals arrive."""
    metrics: Metrics
    policies: FilePolicySource
    jobs: JobLoop
    draining: asyncio.Event
    """Set by the first signal: readiness is red, no further turn is taken."""


@asynccontextmanager
async def open_worker(settings: Settings) -> AsyncIterator[WorkerContext]:
    """Raises ConfigurationError if the process cannot start as configured."""
    catalog = CatalogHolder(load_catalog(settings))
    metrics = Metrics(settings.metrics.prefix)
    draining = asyncio.Event()
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(exporting(settings.tracing, process="worker"))
        engine, sessions = await stack.enter_async_context(open_database(settings.database))
        measure_statements(engine, metrics)
        valkey = await stack.enter_async_context(open_valkey(settings.redis))
        # A connection of its own: it blocks. A read blocks shorter than its time limit.
        wake_valkey = await stack.enter_async_context(open_valkey(settings.redis))
        signal_valkey = await stack.enter_async_context(open_valkey(settings.redis))
        probe = ReadinessProbe(sessions, valkey, catalog, draining)
        await stack.enter_async_context(
            serve_metrics(
                metrics,
                host=settings.host,
                port=settings.metrics.worker_port,
                key="metrics.worker_port",
                routes=health_routes(probe),
            )
        )
        clients = ProviderClients(
            catalog.loaded.providers,
            on_circuit_open=lambda provider_id: metrics.provider_circuit_open.labels(provider=provider_id).inc(),
        )
        stack.push_async_callback(clients.aclose)
        providers = ProviderRegistry(clients, metrics)
        stack.push_async_callback(providers.aclose)
        storages = ProviderStorages(clients, metrics)
        policies = FilePolicySource(
            settings,
            catalog,
            sessions=sessions,
            clock=clock,
            on_change=lambda loaded: clients.replace(loaded.providers),
        )
        await policies.start()
        log = EventLog(valkey, settings)
        queue = JobQueue(valkey, settings)
        leases = LeaseKeeper(sessions, owner=process_name(), lease=timedelta(seconds=settings.turns.lease_secs))
        files = FileCleanup(
            sessions, Removal(storages, metrics), metrics, max_attempts=settings.cleanup_worker.max_attempts
        )
        handlers = await _open_outbox_handlers(
            stack,
            settings=settings,
            sessions=sessions,
            providers=providers,
            files=files,
            catalog=catalog,
            clock=clock,
            metrics=metrics,
        )
        outbox = Delivery(
            settings=settings.outbox, sessions=sessions, metrics=metrics, owner=leases.owner, handlers=handlers
        )
        finalizer = TurnFinalizer(sessions, policies, settings, metrics, wake_outbox=outbox.wake)
        stopper = TurnStopper(
            sessions=sessions, finalizer=finalizer, valkey=valkey, log=log, clock=clock, metrics=metrics
        )
        runner = TurnRunner(
            settings=settings,
            sessions=sessions,
            finalizer=finalizer,
            log=log,
            queue=queue,
            leases=leases,
            providers=providers,
            planner=TurnPlanner(settings, sessions, policies),
            clock=clock,
            metrics=metrics,
            quota_warnings=QuotaWarnings(settings, sessions, policies, clock),
        )
        failed_attachments = FailedAttachments(sessions, files)
        summarizer = DocumentSummarizer(
            settings=settings,
            sessions=sessions,
            providers=providers,
            catalog=catalog,
            queue=queue,
            clock=clock,
            metrics=metrics,
        )
        summarize = summarizer.schedule if settings.doc_summary.enabled else None
        indexer = Indexer(
            sessions=sessions,
            storages=storages,
            clock=clock,
            metrics=metrics,
            failed=failed_attachments,
            on_ready=summarize,
        )
        yield WorkerContext(
            settings=settings,
            engine=engine,
            sessions=sessions,
            valkey=valkey,
            leases=leases,
            sweeper=Sweeper(
                settings=settings,
                sessions=sessions,
                finalizer=finalizer,
                queue=queue,
                log=log,
                stopper=stopper,
                outage=OutageGuard(lease=leases.lease, interval=SWEEP_INTERVAL),
            ),
            watchdog=Watchdog(
                settings=settings,
                sessions=sessions,
                finalizer=finalizer,
                log=log,
                clock=clock,
                metrics=metrics,
                outage=OutageGuard(
                    lease=leases.lease, interval=timedelta(seconds=settings.orphan_watchdog.scan_interval_secs)
                ),
            ),
            absence=AbsenceWatch(
                Presence(valkey, process=leases.owner),
                leases,
                stopper,
                grace_secs=settings.streaming.disconnect_grace_secs,
            ),
            outbox=outbox,
            purge=Purge(settings, sessions),
            reconciliation=Reconciliation(
                sessions, metrics, batch=settings.cleanup_worker.batch_size, wake_outbox=outbox.wake
            ),
            storages=storages,
            stuck_uploads=StuckUploads(
                sessions=sessions,
                storages=storages,
                failed=failed_attachments,
                queue=queue,
                metrics=metrics,
                clock=clock,
                summarize=summarize,
            ),
            signal_valkey=signal_valkey,
            metrics=metrics,
            policies=policies,
            jobs=JobLoop(
                {RUN_TURN: run_turn, INDEX_ATTACHMENT: index_attachment, SUMMARIZE_DOCUMENT: summarize_document},
                wake_valkey=wake_valkey,
                queue=queue,
                settings=settings,
                ctx={RUNNER: runner, INDEXER: indexer, SUMMARIZER: summarizer},
            ),
            draining=draining,
        )


async def _open_outbox_handlers(
    stack: AsyncExitStack,
    *,
    settings: Settings,
    sessions: Sessions,
    providers: ProviderRegistry,
    files: FileCleanup,
    catalog: CatalogHolder,
    clock: Clock,
    metrics: Metrics,
) -> list[Handler]:
    """Who delivers the messages of each queue; those of a queue that is switched off wait."""
    usage_sink = await stack.enter_async_context(open_sink(settings.usage_sink, clock=clock))
    audit_sink = await stack.enter_async_context(open_sink(settings.audit_sink, clock=clock))
    max_attempts = settings.outbox.max_attempts
    handlers: list[Handler] = [
        SinkHandler(USAGE_SNAPSHOT, usage_sink, max_attempts=max_attempts, metrics=metrics),
        SinkHandler(AUDIT, audit_sink, max_attempts=max_attempts, metrics=metrics),
    ]
    if settings.thread_summary_worker.enabled:
        handlers.append(
            ThreadSummaryJob(
                settings=settings,
                sessions=sessions,
                providers=providers,
                catalog=catalog,
                clock=clock,
                metrics=metrics,
            )
        )
    if settings.cleanup_worker.enabled:
        # The handlers end sooner when the provider fails; what else may fail has the tries of any message.
        tries = max(max_attempts, files.max_attempts)
        handlers += [
            ChatCleanup(sessions, files, files.removal, metrics, max_attempts=tries),
            AttachmentCleanup(sessions, files, max_attempts=tries),
        ]
    return handlers
