"""The id of a request's command."""

from infra.entry.ids import callers_id
from infra.http.edge import Exchange
from infra.telemetry.ids import new_id


def command_id_of(exchange: Exchange) -> str:
    """The caller's Idempotency-Key, or a new id when there is none."""
    told = exchange.raw_headers.get(b"idempotency-key")
    if told is None:
        return exchange.made_id or new_id()
    return callers_id(exchange.caller, told.decode("latin-1"), "Idempotency-Key")
