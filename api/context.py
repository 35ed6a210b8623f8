"""What the API process holds for as long as it runs, handed to whoever serves a request."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncEngine

from api.attachments.permits import UploadPermits
from api.attachments.thumbnails import Thumbnailer
from api.auth import Authenticator
from api.limits.limiter import Limiter
from api.probe import Probes
from api.turns.audience import Audience
from api.turns.follow import TurnFollower
from api.turns.live import LiveFeed
from shared.clock import Clock
from shared.db.engine import Sessions
from shared.events.log import EventLog
from shared.metrics import Metrics
from shared.model_catalog.holder import CatalogHolder
from shared.policy.file_source import FilePolicySource
from shared.providers.storage import ProviderStorages
from shared.queue.queue import JobQueue
from shared.settings import Settings
from shared.turns.stop import TurnStopper
from shared.valkey.client import Valkey


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiContext:
    settings: Settings
    engine: AsyncEngine
    sessions: Sessions
    valkey: Valkey
    log: EventLog
    queue: JobQueue
    live: LiveFeed
    followers: TurnFollower
    audience: Audience
    stopper: TurnStopper
    storages: ProviderStorages
    upload_permits: UploadPermits
    thumbnails: Thumbnailer
    limiter: Limiter
    catalog: CatalogHolder
    policies: FilePolicySource
    clock: Clock
    authenticator: Authenticator
    metrics: Metrics
    draining: asyncio.Event
    """Set once the process is about to end: readiness is red, streams are let go."""
    probes: Probes = field(default_factory=Probes)
