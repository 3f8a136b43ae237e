"""What metrics tell of parked events: how many each follower has, and since when."""

from typing import Any, Final

import psycopg

from infra.postgres import dead_letters
from infra.postgres.connections import transaction
from infra.settings import Settings
from infra.telemetry.metrics import Sample

DEAD_LETTERS: Final = "tessera_dead_letters"
DEAD_LETTERS_FAILED: Final = "tessera_dead_letters_failed"
DEAD_LETTERS_OLDEST: Final = "tessera_dead_letters_oldest_seconds"


def parked_samples(cursor: psycopg.Cursor[Any], shard: int) -> list[Sample]:
    """Of every follower that has parked something. None at all: nothing is parked."""
    samples = []
    for each in dead_letters.counts(cursor):
        labels = (("shard", str(shard)), ("source", each.follower))
        samples += [
            Sample(DEAD_LETTERS, labels, each.events),
            Sample(DEAD_LETTERS_FAILED, labels, each.failed),
            Sample(DEAD_LETTERS_OLDEST, labels, each.oldest_seconds),
        ]
    return samples


def parked_of(settings: Settings) -> list[Sample]:
    """The same for a worker, which asks on a connection of its own when somebody looks. Raises StoreUnavailable."""
    with transaction(settings.postgres_dsn, name="metrics") as cursor:
        return parked_samples(cursor, settings.shard)
