"""What operators see of a day in the life: metrics of every process, one trace of a turn, and logs without secrets."""

from __future__ import annotations

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.catalogs import acceptance_catalog
from tests.support.database import cloned_database
from tests.support.deployment import Deployment, Process, deployment
from tests.support.problems import assert_problem
from tests.support.series import LABELS, SERIES
from tests.support.sse import open_stream
from tests.support.tokens import SECRET, Caller
from tests.support.turns import ToldTurn, ask, create_chat, message, scripted, send_path, turn_path, wait_for_state
from tests.support.uploads import image, ready
from tests.support.waiting import wait_until

PREFIX = "mini_chat_"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER_SPAN = "00f067aa0ba902b7"

QUESTION, EDITED, ANSWER, TITLE, FILE, PROMPT = (
    f"sesame-{name}" for name in ("question", "edit", "answer", "title", "file", "prompt")
)
PROVIDER_KEY = "sk-5e5ame0123456789abcdef"
REFUSAL = f"bad key {PROVIDER_KEY} in resp_5e5ame123, see https://sesame.example/keys"
PROVIDER_FILE = re.compile(r"(?:file-|vs_)[0-9a-f]{8,}")
"""What the scripted provider calls files and vector stores. Ids of its responses may be logged."""
CONTENT = (QUESTION, EDITED, ANSWER, TITLE, FILE, PROMPT)
"""What users write, models answer and operators instruct."""


def watched_catalog(*, provider_port: int) -> dict[str, Any]:
    tree = acceptance_catalog(provider_port=provider_port)
    for provider in tree["providers"].values():
        provider |= {"auth_header": "Authorization", "auth_prefix": "Bearer ", "auth_secret": "env:SESAME_KEY"}
    for model in tree["model_catalog"]:
        model["system_prompt"] = PROMPT
    return tree


class Scrape:
    """The exposition of one process."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = list(text_string_to_metric_families(text))

    def total(self, name: str, **labels: str) -> float:
        """Of all series with these labels; of a histogram, how many were observed."""
        kind, _ = SERIES[name]
        sample_name = PREFIX + name + {"counter": "_total", "histogram": "_count", "gauge": ""}[kind]
        samples = (sample for family in self.families for sample in family.samples if sample.name == sample_name)
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


@dataclass
class Day:
    """A deployment in which everything that is worth watching has happened once."""

    product: Deployment
    traces: Path
    caller: Caller
    told: ToldTurn
    problems: list[str]
    events: list[str]
    scrapes: dict[str, Scrape]
    """What each process has counted, by its kind and number."""

    @property
    def processes(self) -> list[Process]:
        return [*self.product.apis, *self.product.workers]

    def lines(self, *processes: Process) -> list[dict[str, Any]]:
        return [json.loads(line) for process in processes for line in process.log.splitlines()]

    def total(self, name: str, **labels: str) -> float:
        """The sum over all processes."""
        return sum(scrape.total(name, **labels) for scrape in self.scrapes.values())

    def spans(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.traces.read_text().splitlines()]


@pytest.fixture(scope="module")
def day(template_url: str, spare_valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    """Two API processes and two workers, each with metrics of its own, after a little of everything."""
    traces = tmp_path_factory.mktemp("traces") / "spans.jsonl"
    database = cloned_database(template_url)
    with pytest.MonkeyPatch.context() as environment, asyncio.Runner() as runner:
        environment.setenv("SESAME_KEY", PROVIDER_KEY)
        url = runner.run(database.__aenter__())
        try:
            with deployment(
                database_url=url,
                valkey_url=spare_valkey_url,
                apis=2,
                workers=2,
                make_catalog=watched_catalog,
                with_metrics=True,
                TRACING__OTLP_ENDPOINT=traces.as_uri(),
                LOG__LEVEL="info",
            ) as product:
                yield runner.run(live_through_it(product, traces))
        finally:
            runner.run(database.__aexit__(None, None, None))


async def live_through_it(product: Deployment, traces: Path) -> Day:
    caller = Caller()
    async with product.client(caller) as client, product.client(caller, api=1) as other:
        told = await answered_turn(client)
        problems = [await replays(client, other, told), await refusals(client, told.chat_id)]
        failed = await failed_turns(product, client)
        stopped = await stopped_turns(client, other)
        problems.append(await mutations(client, told))
        await life_of_a_file(client)
    events = [event.name + json.dumps(event.data) for turn in (told, *failed) for event in turn.events]
    await wait_until(lambda: is_delivered(product), timeout=20)
    processes = [*product.apis, *product.workers]
    async with httpx.AsyncClient(trust_env=False) as client:
        texts = [(await client.get(process.metrics_url)).text for process in processes]
    numbered = zip(processes, texts, strict=True)
    scrapes = {f"{process.name} {number}": Scrape(text) for number, (process, text) in enumerate(numbered)}
    return Day(product, traces, caller, told, problems, [*events, *stopped], scrapes)


async def is_delivered(product: Deployment) -> bool:
    """Whether every event has left the outbox."""
    return await fetch(product, "SELECT count(*) = 0 FROM outbox_messages WHERE delivered_at IS NULL") == [(True,)]


async def fetch(product: Deployment, query: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(product.database_url)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def answered_turn(client: httpx.AsyncClient) -> ToldTurn:
    """With a tool, a citation, and the caller's own trace."""
    cited = {"type": "url_citation", "url": "https://example.org/", "title": "E", "start_index": 0, "end_index": 3}
    content = scripted(
        QUESTION,
        text=f"{ANSWER} and so on, for a while",
        rate=40,
        tools=[{"name": "web_search", "details": {}}],
        citations=[cited],
    )
    chat_id = await create_chat(client, title=TITLE)
    body = message(content, web_search={"enabled": True})
    headers = {"traceparent": f"00-{TRACE}-{CALLER_SPAN}-01"}
    async with open_stream(client, "POST", send_path(chat_id), json=body, headers=headers) as stream:
        return ToldTurn(chat_id, body, await stream.rest())


async def replays(client: httpx.AsyncClient, other: httpx.AsyncClient, told: ToldTurn) -> str:
    """The same request again, and the rest of its stream at the other replica."""
    async with open_stream(other, "POST", send_path(told.chat_id), json=told.body) as stream:
        assert (await stream.rest())[-1].name == "done"
    async with open_stream(client, "GET", told.events_path, headers={"Last-Event-ID": told.events[2].id}) as stream:
        assert (await stream.rest())[-1].name == "done"
    missing = await other.get(turn_path(told.chat_id, told.chat_id))
    assert_problem(missing, 404, "turn_not_found")
    return missing.text


async def refusals(client: httpx.AsyncClient, chat_id: str) -> str:
    blank = await client.post(send_path(chat_id), json={"content": " ", "attachment_ids": [QUESTION]})
    assert_problem(blank, 400, "invalid_request")
    stranger = await client.get("/chats", headers={"Authorization": f"Bearer {SECRET}"})
    assert_problem(stranger, 401, "unauthenticated")
    return blank.text + stranger.text


async def failed_turns(product: Deployment, client: httpx.AsyncClient) -> list[ToldTurn]:
    """Refused by the provider, told to come back, and with more tool calls than are allowed."""
    refusal = {"http_status": 500, "body": json.dumps({"error": {"message": REFUSAL}})}
    refused = await ask(client, scripted(QUESTION, **refusal))
    assert refused.terminal.name == "error"
    busy = {"match": "busy-at-first", "http_status": 429, "headers": {"retry-after": "0"}, "body": "{}"}
    product.queue_scripts(busy, {"match": "busy-at-first", "text": ANSWER})
    retried = await ask(client, f"{QUESTION} busy-at-first")
    assert retried.terminal.name == "done"
    searches = [{"name": "web_search", "details": {}}] * 3
    limited = await ask(client, scripted(QUESTION, tools=searches, text=ANSWER), web_search={"enabled": True})
    assert limited.terminal.data["code"] == "web_search_calls_exceeded"
    return [refused, retried, limited]


async def stopped_turns(client: httpx.AsyncClient, other: httpx.AsyncClient) -> list[str]:
    """One by its user, at another replica; one because its reader has left."""
    endless = scripted(QUESTION, text=f"{ANSWER} " * 400, rate=40)
    chat_id, body = await create_chat(client), message(endless)
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        await stream.until("delta")
        await other.post(f"{turn_path(chat_id, body['request_id'])}/cancel")
        ended = await stream.rest()
    body = message(endless, on_disconnect="cancel")
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        await stream.until("delta")
    await wait_for_state(client, chat_id, body["request_id"], "cancelled")
    return [json.dumps(ended[-1].data)]


async def life_of_a_file(client: httpx.AsyncClient) -> None:
    """Uploaded, made searchable, sent with a picture, and removed at the provider with its chat."""
    chat_id = await create_chat(client)
    await ready(client, chat_id, FILE.encode(), filename=f"{FILE}.txt")
    picture = await ready(client, chat_id, image(), filename="p.png", content_type="image/png")
    await ask(client, scripted(QUESTION, text=ANSWER), chat_id=chat_id, attachment_ids=[picture["id"]])
    assert (await client.delete(f"/chats/{chat_id}")).status_code == httpx.codes.NO_CONTENT


async def mutations(client: httpx.AsyncClient, told: ToldTurn) -> str:
    """The last turn is retried, edited and deleted; one that is not the last cannot be."""
    later = await ask(client, scripted(QUESTION, text=ANSWER, rate=0), chat_id=told.chat_id)
    late = await client.post(f"{told.turn_path}/retry")
    assert_problem(late, 409, "not_latest_turn")
    async with open_stream(client, "POST", f"{later.turn_path}/retry") as stream:
        retried = (await stream.rest())[0].data["request_id"]
    path = turn_path(told.chat_id, retried)
    async with open_stream(client, "PATCH", path, json={"content": scripted(EDITED, text=ANSWER)}) as stream:
        edited = (await stream.rest())[0].data["request_id"]
    deleted = await client.delete(turn_path(told.chat_id, edited))
    assert deleted.status_code == httpx.codes.NO_CONTENT
    return late.text


async def test_85_every_process_serves_the_series_of_the_contract(day: Day) -> None:
    """Each series of the list, each as what it is, and none beside them."""
    expected = {PREFIX + name: kind for name, (kind, _) in SERIES.items()}
    assert day.scrapes.keys() == {"api 0", "api 1", "worker 2", "worker 3"}
    for scrape in day.scrapes.values():
        assert {family.name: family.type for family in scrape.families} == expected


async def test_85_no_label_names_or_holds_what_there_is_no_end_of(day: Day) -> None:
    values: defaultdict[str, set[str]] = defaultdict(set)
    for family in chain.from_iterable(scrape.families for scrape in day.scrapes.values()):
        for sample in family.samples:
            names = sample.labels.keys() - {"le"}
            assert names <= SERIES[family.name.removeprefix(PREFIX)][1]
            for name in names:
                values[name].add(sample.labels[name])
    assert values.keys() <= LABELS
    ids = {day.caller.tenant_id, day.caller.user_id, day.told.chat_id, day.told.request_id}
    found = {value for held in values.values() for value in held}
    assert found.isdisjoint(map(str, ids))
    assert all(len(held) < 60 for held in values.values())
    assert all(len(value) < 60 for value in found - values["instance"])


MOVED: list[tuple[str, dict[str, str]]] = [
    ("stream_started", {"provider": "azure_openai"}),
    ("stream_completed", {"model": "azure-gpt-4.1"}),
    ("stream_failed", {"error_code": "provider_error"}),
    ("stream_failed", {"error_code": "web_search_calls_exceeded"}),
    ("stream_disconnected", {"stage": "mid_stream"}),
    ("stream_replay", {"reason": "idempotent_completed"}),
    ("stream_replay", {"reason": "attach"}),
    ("stream_resumed", {"source": "events"}),
    ("ttft_provider_ms", {}),
    ("ttft_overhead_ms", {"provider": "azure_openai", "model": "azure-gpt-4.1"}),
    ("stream_total_latency_ms", {}),
    ("dispatch_latency_ms", {}),
    ("relay_lag_ms", {}),
    ("turn_attempts", {"reason": "first"}),
    ("cancel_requested", {"trigger": "user_stop"}),
    ("cancel_effective", {"trigger": "user_stop"}),
    ("cancel_requested", {"trigger": "disconnect"}),
    ("cancel_effective", {"trigger": "disconnect"}),
    ("streams_aborted", {"trigger": "client_disconnect"}),
    ("time_to_abort_ms", {"trigger": "user_stop"}),
    ("tokens_after_cancel", {"trigger": "user_stop"}),
    ("time_from_ui_disconnect_to_cancel_ms", {"trigger": "disconnect"}),
    ("orphan_scan_duration_seconds", {}),
    ("quota_preflight", {"decision": "allow", "tier": "premium"}),
    ("quota_preflight_v2", {"kind": "text"}),
    ("quota_reserve", {"period": "daily"}),
    ("quota_commit", {"period": "monthly"}),
    ("quota_estimated_tokens", {}),
    ("quota_actual_tokens", {}),
    ("tool_calls", {"tool": "web_search", "phase": "done"}),
    ("tool_call_limited", {"tool": "web_search"}),
    ("web_search_latency_ms", {}),
    ("citations_count", {}),
    ("citations_by_source", {"source": "web"}),
    ("thread_summary_trigger", {"result": "not_needed"}),
    ("turn_mutation", {"op": "retry", "result": "ok"}),
    ("turn_mutation", {"op": "retry", "result": "not_latest"}),
    ("turn_mutation", {"op": "edit", "result": "ok"}),
    ("turn_mutation", {"op": "delete", "result": "ok"}),
    ("turn_mutation_latency_ms", {"op": "edit"}),
    ("provider_requests", {"endpoint": "responses_stream"}),
    ("provider_errors", {"status": "500"}),
    ("provider_retries", {"provider": "azure_openai", "reason": "rate_limited"}),
    ("provider_latency_ms", {}),
    ("attachment_upload", {"kind": "document", "result": "ok"}),
    ("attachment_upload_bytes", {"kind": "image"}),
    ("attachment_index", {"result": "ok"}),
    ("attachment_index_latency_ms", {}),
    ("provider_latency_ms", {"endpoint": "vector_store_add"}),
    ("image_turns", {"model": "azure-gpt-4.1"}),
    ("image_inputs_per_turn", {}),
    ("cleanup_completed", {"resource_type": "file"}),
    ("cleanup_completed", {"resource_type": "vector_store"}),
    ("cleanup_latency_ms", {}),
    ("audit_emit", {"result": "ok"}),
    ("finalization_latency_ms", {}),
    ("outbox_enqueue", {"kind": "usage_snapshot", "result": "ok"}),
    ("outbox_handler", {"kind": "usage_snapshot", "result": "ok"}),
    ("db_query_latency_ms", {"query": "update chat_turns"}),
]


async def test_85_what_has_happened_was_counted(day: Day) -> None:
    assert [(name, labels) for name, labels in MOVED if day.total(name, **labels) == 0] == []


async def test_85_the_processes_add_up(day: Day) -> None:
    """Each process counts what it does itself, so that a sum over all of them is the truth."""
    query = "SELECT count(*), count(*) FILTER (WHERE state = 'completed') FROM chat_turns"
    [(turns, completed)] = await fetch(day.product, query)
    assert day.total("turn_attempts") == day.total("quota_reserve", period="daily") == turns
    assert day.total("quota_commit", period="daily") == day.total("finalization_latency_ms") == turns
    assert day.total("stream_completed") == completed
    replaying = {name for name, scrape in day.scrapes.items() if scrape.total("stream_replay")}
    assert replaying == {"api 0", "api 1"}


async def test_one_trace_shows_a_turn_from_the_request_to_its_first_event(day: Day) -> None:
    """API -> queue (the wait is a span of its own) -> worker -> provider -> first event, in the caller's trace."""

    def spans() -> dict[str, dict[str, Any]]:
        return {span["name"]: span for span in day.spans() if span["context"]["trace_id"] == f"0x{TRACE}"}

    path = "/chats/{chat_id}/messages:stream"
    request_name, call_name = f"POST {path}", "provider responses_stream"
    names = {request_name, "queue", "run_turn", call_name, "finalize", "first event"}
    await wait_until(lambda: names <= spans().keys())
    found = spans()
    assert found.keys() == names

    def parent_of(name: str) -> str:
        return str(found[name]["parent_id"]).removeprefix("0x")

    def id_of(name: str) -> str:
        return str(found[name]["context"]["span_id"]).removeprefix("0x")

    assert parent_of(request_name) == CALLER_SPAN
    assert parent_of("queue") == parent_of("first event") == id_of(request_name)
    assert parent_of("run_turn") == id_of("queue")
    assert parent_of(call_name) == parent_of("finalize") == id_of("run_turn")

    request, queue, run, call, first = (
        found[name] for name in (request_name, "queue", "run_turn", call_name, "first event")
    )
    assert queue["start_time"] <= queue["end_time"] <= run["start_time"] <= call["start_time"]
    assert call["start_time"] <= first["end_time"] <= request["end_time"]
    assert [event["name"] for event in call["events"]] == ["first delta"]
    assert call["attributes"] == {
        "mini_chat.provider": "azure_openai",
        "mini_chat.endpoint": "responses_stream",
        "mini_chat.model": "azure-gpt-4.1",
        "http.response.status_code": 200,
    }
    assert request["attributes"]["http.route"] == path
    services = {span["resource"]["attributes"]["service.name"] for span in found.values()}
    assert services == {"mini-chat-api", "mini-chat-worker"}


async def test_probes_leave_no_traces(day: Day) -> None:
    """Balancers ask all the time."""
    asked = [line for line in day.lines(*day.product.apis) if "/readyz" in line["message"]]
    assert [line for line in asked if line["status"] == "ok"] == []
    await wait_until(lambda: any(span["name"].startswith("DELETE") for span in day.spans()))
    assert [span["name"] for span in day.spans() if "readyz" in span["name"]] == []


async def test_a_failed_call_is_a_failed_span_without_its_text(day: Day) -> None:
    def failed() -> list[dict[str, Any]]:
        return [span for span in day.spans() if span["attributes"].get("http.response.status_code") == 500]

    await wait_until(failed)
    (span,) = failed()
    assert (span["name"], span["status"]["status_code"]) == ("provider responses_stream", "ERROR")
    assert span["attributes"]["error.type"] == "provider_error"
    assert span["events"] == []


async def test_one_query_finds_a_turn_in_the_logs_of_all_processes(day: Day) -> None:
    turn = {"request_id": day.told.request_id, "chat_id": day.told.chat_id}
    lines = [line for line in day.lines(*day.processes) if turn.items() <= line.items()]
    sends = [line for line in lines if line["message"].endswith("messages:stream")]
    (asked,) = (line for line in sends if line["status"] == "ok")
    (replayed,) = (line for line in sends if line["status"] == "replayed")
    (ended,) = (line for line in lines if line["message"] == "turn ended")
    caller = {"tenant_id": str(day.caller.tenant_id), "user_id": str(day.caller.user_id), "requester_type": "user"}
    for line in (asked, ended):
        assert (caller | {"trace_id": TRACE, "status": "ok"}).items() <= line.items()
    assert asked["turn_id"] == ended["turn_id"]
    assert (asked["process"], asked["processing_stage"]) == ("api", "relay")
    assert (ended["process"], ended["processing_stage"]) == ("worker", "finalize")
    assert replayed["trace_id"] != TRACE


async def test_the_log_says_how_turns_and_requests_have_failed(day: Day) -> None:
    ends = [line for line in day.lines(*day.product.workers) if line["message"] == "turn ended"]
    outcomes = {(line["status"], line.get("error_code")) for line in ends}
    expected = {("ok", None), ("cancelled", None), ("error", "provider_error")}
    assert expected | {("error", "web_search_calls_exceeded")} == outcomes
    requests = [line for line in day.lines(*day.product.apis) if line["logger"] == "api.access"]
    refused = {(line["status"], line["error_code"], line["http_status"]) for line in requests if "error_code" in line}
    assert refused >= {
        ("error", "invalid_request", 400),
        ("error", "unauthenticated", 401),
        ("error", "turn_not_found", 404),
        ("error", "not_latest_turn", 409),
    }


async def test_87_nothing_but_the_answer_holds_content_secrets_or_provider_ids(day: Day) -> None:
    """Logs, traces, metrics and outgoing events hold neither what is said nor any secret; what clients get, no secret
    and no id of the provider's."""
    outbox = [payload for (payload,) in await fetch(day.product, "SELECT payload::text FROM outbox_messages")]
    assert len(outbox) > 10
    token = day.caller.headers["Authorization"].split()[1].split(".")[0]
    urls = (urlsplit(day.product.database_url), urlsplit(day.product.valkey_url))
    secrets = [PROVIDER_KEY, SECRET, token, *(url.password for url in urls if url.password)]
    logs = [process.log for process in (*day.processes, day.product.provider)]
    exposed = [scrape.text for scrape in day.scrapes.values()]
    for text in (*logs, *outbox, *exposed, day.traces.read_text()):
        assert [word for word in (*CONTENT, *secrets) if word in text] == []
    assert [log for process in day.processes for log in PROVIDER_FILE.findall(process.log)] == []
    for text in (*day.problems, *day.events):
        assert [word for word in (*secrets, "resp_", "sesame.example", PROMPT) if word in text] == []
    assert any("[provider_id]" in text for text in day.events)
