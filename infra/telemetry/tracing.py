"""OpenTelemetry traces that follow one command from HTTP through the append to the projections.

The thread is the W3C ``traceparent`` that every envelope and every stored event carries. Without an exporter no spans
are made, but the ids are: whoever reads an event can still tell which request it came from.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from contracts.envelope import Recorded
from infra.telemetry.ids import new_id

LINKED_SPANS_MAX: Final = 100
_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_SERVER_ERROR: Final = 500


class LiveSpan:
    """A span that is going on; ``traceparent`` makes whatever it causes its children."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    def set_status(self, http_status: int) -> None:
        """Note how a request ended."""
        self._span.set_attribute("http.response.status_code", http_status)
        if http_status >= _SERVER_ERROR:
            self._span.set_status(Status(StatusCode.ERROR))

    def end(self, code: str = "not_sent") -> None:
        """Note how a command ended, and that it did."""
        self._span.set_attribute("tessera.code", code)
        self._span.end()


class Tracing:
    """Makes spans when there is somewhere to send them (``provider``), and trace ids in any case."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("tessera") if provider else None

    @property
    def enabled(self) -> bool:
        """Whether spans are made at all."""
        return self._tracer is not None

    def traceparent_of(self, header: bytes | None, trace_id: str | None = None) -> str:
        """The caller's trace, or one (of this id, or a new one) that nobody samples."""
        if header is not None and _context_of(told := header.decode("latin-1")) is not None:
            return told
        trace_id = trace_id or new_id()
        return f"00-{trace_id}-{trace_id[:16]}-00"

    @contextmanager
    def server_span(self, name: str, header: bytes | None) -> Iterator[LiveSpan]:
        """The span of one HTTP request, the child of the caller's if it named one."""
        parent = _context_of(header.decode("latin-1")) if header else None
        span = self._start(name, SpanKind.SERVER, parent)
        try:
            yield LiveSpan(span)
        finally:
            span.end()

    def begin(self, name: str, traceparent: str | None, **attributes: str | int) -> LiveSpan:
        """A span under whatever ``traceparent`` names, to be ended by the caller, in any thread."""
        span = self._start(name, SpanKind.INTERNAL, _context_of(traceparent))
        span.set_attributes({f"tessera.{key}": value for key, value in attributes.items()})
        return LiveSpan(span)

    @contextmanager
    def following(self, name: str, batch: Sequence[Recorded]) -> Iterator[None]:
        """Spans for a follower that handles a batch: one for each trace in it, as long as the batch takes."""
        with self.following_traces(name, (each.metadata.traceparent for each in batch), len(batch)):
            yield

    @contextmanager
    def following_traces(self, name: str, traceparents: Iterable[str | None], events: int) -> Iterator[None]:
        """The same for whoever has not read the events, only how many they are and of which traces."""
        if self._tracer is None:
            yield
            return
        spans = [self._start(name, SpanKind.CONSUMER, parent) for parent in _traces_in(traceparents)]
        try:
            yield
        finally:
            for span in spans:
                span.set_attribute("tessera.batch_events", events)
                span.end()

    def close(self) -> None:
        """Send what is still waiting to be sent."""
        if self._provider is not None:
            self._provider.shutdown()

    def _start(self, name: str, kind: SpanKind, parent: SpanContext | None) -> trace.Span:
        if self._tracer is None:
            raise RuntimeError("spans are asked for although tracing is off")
        context = trace.set_span_in_context(NonRecordingSpan(parent)) if parent else None
        return self._tracer.start_span(name, context, kind)


def make_provider(
    service_name: str,
    *,
    exporter: SpanExporter | None = None,
    processor: SpanProcessor | None = None,
    ratio: float = 1.0,
) -> TracerProvider:
    """A provider that samples this ratio of new traces and follows what callers decided for theirs."""
    resource = Resource.create({"service.name": service_name})
    provider = TracerProvider(resource=resource, sampler=ParentBased(TraceIdRatioBased(ratio)))
    if exporter is not None:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    if processor is not None:
        provider.add_span_processor(processor)
    return provider


def _context_of(traceparent: str | None) -> SpanContext | None:
    """The remote span that a traceparent names; None for anything that is not one."""
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if match is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in match.groups())
    if not trace_id or not span_id:
        return None
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))


def _traces_in(traceparents: Iterable[str | None]) -> list[SpanContext]:
    """One sampled parent for each trace in a batch, in order, and not too many."""
    parents: dict[int, SpanContext] = {}
    for traceparent in traceparents:
        context = _context_of(traceparent)
        if context is not None and context.trace_flags.sampled:
            parents.setdefault(context.trace_id, context)
            if len(parents) == LINKED_SPANS_MAX:
                break
    return list(parents.values())
