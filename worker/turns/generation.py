"""Runs the provider's stream of one attempt into the publisher, until it ends or the attempt is asked to stop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial

from shared.backoff import backoff
from shared.db.engine import Sessions, is_database_away
from shared.metrics import Metrics
from shared.providers.calls import ProviderCall, provider_call
from shared.turns.lifecycle import CancelTrigger, Ending, TokenUsage
from worker.providers.base import (
    Completed,
    Counted,
    GenerationRequest,
    Provider,
    ProviderError,
    ReasoningDelta,
    TextDelta,
    ToolDone,
    ToolStarted,
)
from worker.turns.citations import citations_of, cited_file_ids, count_by_source
from worker.turns.files import CitedFile, load_cited_files
from worker.turns.held import HeldTurn, Stop, StopKind
from worker.turns.publisher import Publisher
from worker.turns.tool_calls import ToolCalls

logger = logging.getLogger(__name__)

ENDPOINT = "responses_stream"
"""What metrics call the generation of a turn, whatever the provider's kind."""


class Generation:
    """One provider call. `run` says how the turn ends; leaving it early closes the provider's connection."""

    def __init__(
        self,
        held: HeldTurn,
        publisher: Publisher,
        *,
        provider: Provider,
        request: GenerationRequest,
        tools: ToolCalls,
        sessions: Sessions,
        metrics: Metrics,
    ) -> None:
        self._held = held
        self._publisher = publisher
        self._provider = provider
        self._by_model = {"provider": request.model.provider_id, "model": request.model.id}
        self._request = request
        self._tools = tools
        self._sessions = sessions
        self._metrics = metrics
        # An earlier attempt may have asked the provider, whatever became of its answer.
        self._provider_started = held.attempt > 1
        self._has_content = False
        self._usage: TokenUsage | None = None

    async def run(self, *, time_left: timedelta) -> Ending | None:
        """Generate until the provider ends, the time is up, or somebody asks for a stop.

        Returns:
            None if the turn is no longer this worker's, or is to be handed back.
        """
        if time_left <= timedelta():
            self._end_in_time()
        if self._must_stop():
            return await self._stopped()  # the provider is not asked for what nobody wants any more
        async with asyncio.TaskGroup() as tasks:
            stream = tasks.create_task(self._consume(), name="provider stream")
            noting = tasks.create_task(self._tools.note(), name="note tool calls")
            stop = tasks.create_task(self._held.wait_for_stop(), name="wait for stop")
            await asyncio.wait(
                {stream, stop},
                timeout=max(time_left.total_seconds(), 0.0),
                return_when=asyncio.FIRST_COMPLETED,
            )
            stop.cancel()
            noting.cancel()
            if not stream.done():
                self._end_in_time()
            is_over = not self._must_stop()
            if not is_over:
                stream.cancel()
        if is_over:
            await self._tools.settle()
            return self._with_searches(stream.result())
        self._held.note_abort()
        await self._tools.settle()
        ending = await self._stopped()
        return None if ending is None else self._with_searches(ending)

    def _with_searches(self, ending: Ending) -> Ending:
        """File searches are counted, not limited: the row has no place for them."""
        return replace(ending, file_search_calls=self._tools.file_searches)

    def _end_in_time(self) -> None:
        """The turn may not take longer, unless it is to stop anyway."""
        if self._must_stop():
            return
        self._metrics.cancel_requested.labels(trigger="timeout").inc()
        self._held.stop(Stop(StopKind.CANCELLED, "timeout"))

    def _must_stop(self) -> bool:
        return self._held.requested_stop is not None

    async def _stopped(self) -> Ending | None:
        stop = self._held.requested_stop
        if stop is not None and stop.kind is StopKind.CANCELLED:
            return await self._cancelled(stop.trigger)
        await self._publisher.settle()
        if stop is not None and stop.kind is StopKind.HAND_BACK and self._cannot_start_over():
            return Ending.failed("orphan_timeout", provider_started=True)
        return None

    def _cannot_start_over(self) -> bool:
        """The client has seen something of this attempt, and did not agree to a restart."""
        return self._held.turn.on_worker_loss == "fail" and self._publisher.has_shown_content

    async def _cancelled(self, trigger: CancelTrigger) -> Ending:
        """Stored is what was shown; if the log cannot say what it holds, all that there is."""
        is_settled = await self._publisher.settle()
        text = self._publisher.taken_text if is_settled else self._publisher.text
        return Ending.cancelled(trigger, text=text, provider_started=self._provider_started, usage=self._usage)

    async def _consume(self) -> Ending:
        model = self._request.model
        self._metrics.stream_started.labels(**self._by_model).inc()
        with provider_call(self._metrics, provider=model.provider_id, endpoint=ENDPOINT, model=model.id) as call:
            return await self._ask(call)

    async def _ask(self, call: ProviderCall) -> Ending:
        try:
            async with self._provider.open(self._request, on_requested=partial(self._note_request, call)) as stream:
                self._held.is_progressing = True
                call.answer()
                async for event in stream:
                    match event:
                        case TextDelta(text):
                            if not self._has_content:
                                self._note_content(call)
                            self._publisher.delta(text)
                        case ReasoningDelta(text):
                            self._publisher.delta(text, "reasoning")
                        case ToolStarted(name):
                            exceeded = self._tools.start(name)
                            if exceeded is not None:
                                return Ending.failed(exceeded, provider_started=True)
                            self._publisher.tool("start", name, {})
                        case ToolDone(name, details):
                            self._tools.complete(name, details)
                            self._publisher.tool("done", name, details)
                        case Counted(usage):
                            self._usage = usage
                        case Completed():
                            self._usage = event.usage
                            return await self._completed(event)
        except ProviderError as error:
            self._usage = error.usage or self._usage
            call.fail(error.failure)
            return Ending.failed(
                error.code,
                provider_started=self._provider_started,
                message=error.message,
                detail=error.detail,
                usage=self._usage,
                response_id=error.response_id,
            )
        except Exception as error:
            logger.critical("the turn failed unexpectedly", exc_info=error, extra={"turn_id": str(self._held.turn.id)})
            return Ending.failed("internal_error", provider_started=self._provider_started, detail=repr(error))
        raise AssertionError("a provider's stream ends with Completed or ProviderError")

    async def _completed(self, event: Completed) -> Ending:
        files = await self._find_cited_files(event)
        citations = citations_of(event, answer=self._publisher.text, files=files)
        if citations:
            self._metrics.citations_count.observe(len(citations))
        for source, count in count_by_source(citations).items():
            self._metrics.citations_by_source.labels(source=source).inc(count)
        return Ending.completed(
            citations=citations,
            text=self._publisher.text,
            usage=event.usage,
            response_id=event.response_id,
            incomplete_reason=event.incomplete_reason,
        )

    async def _find_cited_files(self, event: Completed) -> Mapping[str, CitedFile]:
        """However long the database is away: the answer is paid for, and only this worker has it."""
        for delay in backoff(first=0.1, longest=2.0):
            try:
                async with self._sessions() as session:
                    return await load_cited_files(
                        session,
                        tenant_id=self._request.tenant_id,
                        chat_id=self._request.chat_id,
                        file_ids=cited_file_ids(event),
                    )
            except Exception as error:
                if not is_database_away(error) or self._held.is_superseded:
                    raise
                logger.warning("cited files cannot be read, will try again: %r", error)
            await asyncio.sleep(delay)
        raise AssertionError("backoff never ends")

    def _note_request(self, call: ProviderCall) -> None:
        self._provider_started = True
        call.send()

    def _note_content(self, call: ProviderCall) -> None:
        """The first text is here; what the platform adds to the wait for it ends when the log has it."""
        self._has_content = True
        self._metrics.ttft_provider_ms.labels(**self._by_model).observe(call.elapsed_ms)
        call.note("first delta")
        received_at = time.monotonic()
        overhead_ms = self._metrics.ttft_overhead_ms.labels(**self._by_model)
        self._publisher.when_taken(lambda: overhead_ms.observe((time.monotonic() - received_at) * 1000))
