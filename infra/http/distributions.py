"""Distributions over HTTP: lists of users on their way in, progress and refused rows on their way out."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, TypeVar

import orjson

from contracts.commands import StartDistribution
from contracts.identity import Realm
from infra.distributions.lists import BadList, UnclearColumn, read_csv, users_of_json
from infra.entry.bodies import malformed, parse_json
from infra.entry.problems import FieldError, Problem
from infra.http.bodies import parse_command, read_body
from infra.http.edge import Exchange
from infra.postgres import distributions
from infra.postgres.connections import transaction
from infra.postgres.distributions import Job
from query.ports import BadCursor, Page, View

T = TypeVar("T")

# A million users of 40 characters, with room to spare; held in memory while they are read.
LIST_BYTES_MAX: Final = 64 * 1_048_576
UPLOADS_MAX: Final = 3
REFUSAL_CHUNKS_PER_READ: Final = 20
CURSOR_DIGITS_MAX: Final = 9
_CSV: Final = b"text/csv"
_JSON_FIELDS: Final = frozenset({"template_id", "distribution_id", "user_ids"})
_DRY_RUN: Final = frozenset({"dry_run"})


class Upload(NamedTuple):
    """What somebody sent to be distributed. ``distribution_id`` is None when they left the name to us."""

    template_id: Any
    distribution_id: Any
    user_ids: list[str]
    query: dict[str, str]

    def command(self, default_id: str) -> StartDistribution:
        """The command that starts it. Raises Problem for ids that are none."""
        told = {
            "distribution_id": default_id if self.distribution_id is None else self.distribution_id,
            "template_id": self.template_id,
            "users": len(self.user_ids),
        }
        return parse_command(StartDistribution, orjson.dumps(told), {})


class Uploads:
    """Reads lists of users, a few at a time: each is held in memory until it is stored."""

    def __init__(self, blocking: Executor) -> None:
        self._blocking = blocking
        self._under_way = 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A place for one list. Raises Problem when all are taken."""
        if self._under_way >= UPLOADS_MAX:
            raise Problem("busy", f"{UPLOADS_MAX} lists are being read; retry with the same Idempotency-Key")
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def read(self, exchange: Exchange) -> Upload:
        """The list: a CSV file with the names in the query, or one JSON object. Raises Problem."""
        kind = exchange.raw_headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        is_csv = kind == _CSV
        if not is_csv and (kind.startswith(b"text/") or b"template_id=" in exchange.scope["query_string"]):
            message = "must be text/csv for a list with its template in the query: send Content-Type: text/csv"
            raise malformed([FieldError("Content-Type", "wrong_content_type", message)])
        query = exchange.query(_DRY_RUN | {"template_id", "distribution_id", "column"} if is_csv else _DRY_RUN)
        raw = await read_body(exchange.raw_headers, exchange.receive, LIST_BYTES_MAX)
        parse = _from_csv if is_csv else _from_json
        upload = await asyncio.get_running_loop().run_in_executor(self._blocking, parse, raw, query)
        return upload._replace(query={name: value for name, value in query.items() if name in _DRY_RUN})


def _from_csv(raw: bytes, query: dict[str, str]) -> Upload:
    if "template_id" not in query:
        raise malformed([FieldError("?template_id", "missing", "must be there")])
    with _told(""):
        users = read_csv(raw, query.get("column")).users
    return Upload(query["template_id"], query.get("distribution_id"), users, query)


def _from_json(raw: bytes, query: dict[str, str]) -> Upload:
    body = parse_json(raw or b"{}")
    if not isinstance(body, dict):
        raise malformed([FieldError("", "wrong_type", "must be an object")])
    errors = [FieldError(f"/{name}", "missing", "must be there") for name in ("template_id", "user_ids")]
    errors = [error for error in errors if error.pointer[1:] not in body]
    errors += [FieldError(f"/{name}", "unknown_field", "is not a member here") for name in body.keys() - _JSON_FIELDS]
    if errors:
        raise malformed(errors)
    with _told("/user_ids"):
        users = users_of_json(body["user_ids"])
    return Upload(body["template_id"], body.get("distribution_id"), users, query)


@contextmanager
def _told(where: str) -> Iterator[None]:
    try:
        yield
    except UnclearColumn as unclear:
        message = f"must name the column of the users, because {unclear}"
        raise malformed([FieldError("?column", "unclear_column", message)]) from unclear
    except BadList as bad:
        errors = [
            FieldError(f"{where}/{entry.row - 1}", "malformed_user_id", f"{entry.place} {entry.what}")
            for entry in bad.entries
        ]
        raise Problem(
            "malformed_list", str(bad), errors=errors or [FieldError(where, "malformed_list", str(bad))]
        ) from bad


class StoredDistributions:
    """Where distributions stand and whom they refused, straight from the log. Reads on ``blocking``."""

    def __init__(self, dsn: str, blocking: Executor) -> None:
        self._dsn = dsn
        self._blocking = blocking

    async def one(self, realm: Realm, distribution_id: str) -> View | None:
        """One distribution. Raises StoreUnavailable."""
        job = await self._read(lambda cursor: distributions.find(cursor, realm, distribution_id))
        return None if job is None else job.view()

    async def page(self, realm: Realm, *, cursor: str | None, limit: int) -> Page:
        """All distributions, the latest first. Raises BadCursor, StoreUnavailable."""
        if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) <= CURSOR_DIGITS_MAX):
            raise BadCursor
        before = None if cursor is None else int(cursor)
        jobs: list[Job] = await self._read(lambda sql: distributions.page(sql, realm, before=before, limit=limit + 1))
        shown = jobs[:limit]
        return Page([job.view() for job in shown], str(shown[-1].number) if len(jobs) > limit else None)

    async def refusals(self, realm: Realm, distribution_id: str) -> AsyncIterator[bytes] | None:
        """The refused rows as CSV, in pieces; None for an unknown distribution. Raises StoreUnavailable."""
        if await self.one(realm, distribution_id) is None:
            return None
        return self._refusals(realm, distribution_id)

    async def _refusals(self, realm: Realm, distribution_id: str) -> AsyncIterator[bytes]:
        yield _as_csv([("row", "user_id", "code", "detail")])
        after: int | None = 0
        while after is not None:
            rows, after = await self._read(_refusals_after(realm, distribution_id, after))
            if rows:
                yield _as_csv(rows)

    async def _read(self, look: Callable[[Any], T]) -> T:
        def run() -> T:
            with transaction(self._dsn, name="distributions") as cursor:
                return look(cursor)

        return await asyncio.get_running_loop().run_in_executor(self._blocking, run)


def _refusals_after(
    realm: Realm, distribution_id: str, after: int
) -> Callable[[Any], tuple[list[tuple[int, str, str, str]], int | None]]:
    return lambda sql: distributions.refusals(sql, realm, distribution_id, after, REFUSAL_CHUNKS_PER_READ)


def _as_csv(rows: list[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
