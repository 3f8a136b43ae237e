"""Trace ids: the caller's are kept, new ones are made, nonsense is ignored, and spans end with their answers."""

from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from command.engine import Busy, Listener
from contracts.commands import TopUpBudget
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm
from contracts.position import Position
from infra.telemetry.traced import TracedQueue
from infra.telemetry.tracing import Tracing, make_provider

TOLD = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ANSWER = Answer("refused", "budget_exhausted", "", {}, Position(0, "e1", 1))


class Queue:
    """Keeps what it is given, or is full."""

    def __init__(self, *, full: bool = False) -> None:
        self.full = full
        self.given: list[tuple[CommandEnvelope, Listener]] = []

    def submit_to(self, envelopes: Sequence[tuple[CommandEnvelope, Listener]]) -> None:
        if self.full:
            raise Busy("full")
        self.given += envelopes


def envelope() -> CommandEnvelope:
    """A command in a trace."""
    command = TopUpBudget(budget_id="b1", by_minor=1)
    return CommandEnvelope(Realm("acme", "shop"), "k1", command, "key:1", "r1", traceparent=TOLD)


@pytest.fixture
def spans() -> InMemorySpanExporter:
    """Where spans end up."""
    return InMemorySpanExporter()


@pytest.fixture
def tracing(spans: InMemorySpanExporter) -> Tracing:
    """Tracing into memory."""
    return Tracing(make_provider("test", processor=SimpleSpanProcessor(spans)))


def test_without_an_exporter_ids_are_kept_or_made() -> None:
    tracing = Tracing()
    assert not tracing.enabled
    assert tracing.traceparent_of(TOLD.encode()) == TOLD
    made = {tracing.traceparent_of(None) for _ in range(100)}
    assert len(made) == 100
    assert all(trace.startswith("00-") and trace.endswith("-00") and len(trace) == 55 for trace in made)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"nonsense",
        b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-" + b"0" * 16 + b"-01",
        TOLD.upper().encode(),
        TOLD.encode() + b"-extra",
        b"\xff" * 55,
    ],
)
def test_a_header_that_is_no_traceparent_is_replaced(header: bytes) -> None:
    made = Tracing().traceparent_of(header)
    assert made.encode() != header
    assert len(made) == 55


def test_a_command_gets_a_span_that_ends_with_its_answer(tracing: Tracing, spans: InMemorySpanExporter) -> None:
    queue, heard = Queue(), list[Any]()
    TracedQueue(queue, tracing).submit_to([(envelope(), heard.append)])
    ((passed_on, listener),) = queue.given
    assert passed_on.traceparent != TOLD
    assert passed_on.content_hash() == envelope().content_hash()
    assert spans.get_finished_spans() == ()
    listener(ANSWER)
    (span,) = spans.get_finished_spans()
    assert heard == [ANSWER]
    assert (span.name, (span.attributes or {})["tessera.code"]) == ("append top_up_budget", "budget_exhausted")
    assert f"{span.context.span_id:016x}" in (passed_on.traceparent or "")


def test_a_command_that_was_not_taken_leaves_no_span_open(tracing: Tracing, spans: InMemorySpanExporter) -> None:
    with pytest.raises(Busy):
        TracedQueue(Queue(full=True), tracing).submit_to([(envelope(), lambda _: None)] * 2)
    assert [(span.attributes or {})["tessera.code"] for span in spans.get_finished_spans()] == ["not_sent"] * 2
