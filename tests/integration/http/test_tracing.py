"""One claim is one trace: from the request through the append to the read models."""

import httpx
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from infra.postgres.feed import StoreFeed
from infra.projections.coordination import PostgresCoordination
from infra.projections.runner import Follower
from infra.projections.service import ProjectionService
from infra.telemetry.traced import TracedTarget
from infra.telemetry.tracing import Tracing, make_provider
from tests.integration.http.conftest import api
from tests.integration.http.test_serving import active_template

UPSTREAM = "4bf92f3577b34da6a3ce929d0e0e4736"


async def test_request_append_and_projection_of_one_claim_share_its_trace(
    postgres_dsn: str, redis_url: str, clickhouse_url: str
) -> None:
    spans = InMemorySpanExporter()
    tracing = Tracing(make_provider("test", processor=SimpleSpanProcessor(spans)))
    with api(postgres_dsn, tracing) as server:
        async with httpx.AsyncClient(base_url=server.url, headers=server.headers) as client:
            await active_template(client, "t1")
            spans.clear()
            headers = {"traceparent": f"00-{UPSTREAM}-00f067aa0ba902b7-01"}
            claimed = await client.post("/v1/templates/t1/claims", json={"user_id": "u1"}, headers=headers)
            assert claimed.status_code == 201
        _project(postgres_dsn, redis_url, clickhouse_url, tracing)
        mine = {span.name: span for span in spans.get_finished_spans() if f"{span.context.trace_id:032x}" == UPSTREAM}
    request = mine["POST /v1/templates/{template_id}/claims"]
    append = mine["append claim_coupon"]
    wallet = mine["project wallet"]
    assert request.parent is not None
    assert append.parent is not None
    assert wallet.parent is not None
    assert f"{request.parent.span_id:016x}" == "00f067aa0ba902b7"
    assert append.parent.span_id == request.context.span_id
    assert wallet.parent.span_id == append.context.span_id
    assert append.attributes is not None
    assert append.attributes["tessera.code"] == "ok"


async def test_a_caller_that_does_not_sample_makes_no_spans_but_the_events_know_the_trace(postgres_dsn: str) -> None:
    spans = InMemorySpanExporter()
    tracing = Tracing(make_provider("test", processor=SimpleSpanProcessor(spans)))
    with api(postgres_dsn, tracing) as server:
        async with httpx.AsyncClient(base_url=server.url, headers=server.headers) as client:
            await client.post("/v1/clock", json={"to": "2020-01-01T00:00:00Z"})
            spans.clear()
            headers = {"traceparent": f"00-{UPSTREAM}-00f067aa0ba902b7-00"}
            created = await client.post("/v1/budgets", json={"currency": "EUR", "limit_minor": 5}, headers=headers)
            assert created.status_code == 201
    assert spans.get_finished_spans() == ()
    feed = StoreFeed(postgres_dsn)
    traces = [recorded.metadata.traceparent or "" for recorded in feed.read(0, 10, ("budget.created.v1",))]
    feed.close()
    assert [trace.split("-")[1] for trace in traces] == [UPSTREAM]


def _project(postgres_dsn: str, redis_url: str, clickhouse_url: str, tracing: Tracing) -> None:
    """Let the read models take in the whole log, once."""
    service = ProjectionService(
        postgres_dsn=postgres_dsn,
        redis_url=redis_url,
        clickhouse_url=clickhouse_url,
        watched=lambda target: TracedTarget(target, tracing),
    )
    feed, coordination = StoreFeed(postgres_dsn), PostgresCoordination(postgres_dsn)
    with service:
        follower: Follower = service.redis_follower(feed, coordination)
        while follower.step():
            pass
    feed.close()
    coordination.close()
