"""Leases verified over all stores: both sides' books, folded from the raw logs, compared."""

from collections.abc import Mapping

from infra.postgres.connections import connect
from infra.verify import log_rows
from query.verify.between_shards import check_leases
from query.verify.books import Books
from query.verify.raw import Violation


def verify_leases(home_dsn: str, holder_dsns: Mapping[str, str]) -> list[Violation]:
    """What is wrong with leases, in one log or between two. Raises psycopg.Error when a store is out of reach."""
    holders = {holder: _books(dsn) for holder, dsn in holder_dsns.items()}
    home = _books(home_dsn)
    alone = [it for books in (home, *holders.values()) for it in books.finish() if it.invariant == "I12"]
    return [*alone, *check_leases(home, holders)]


def _books(dsn: str) -> Books:
    books = Books()
    with connect(dsn, name="verify") as connection:
        books.fold(log_rows.events(connection, 0, log_rows.head(connection)))
    return books
