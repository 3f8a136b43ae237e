"""Runs an import: the plan's rows through the engine in business-time order, resumable at any moment."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date, datetime
from time import monotonic
from typing import Final

from contracts.commands import AdvanceClock, SetRowsAside
from contracts.envelope import Answer, CommandEnvelope
from contracts.events.operations import RowSetAside
from contracts.refusals import ClockRunsForwardOnly
from infra.imports.errors import BadRow, ClockElsewhere, EngineUnreachable, SourceChanged
from infra.imports.job import ImportJob
from infra.imports.plan import Plan, PlannedRow, planned
from infra.imports.progress import Progress, ProgressStore, Sources, progress_store
from infra.imports.report import ImportReport, NobodyWatches, Watcher, report_of
from infra.imports.sender import CommandSink, InFlight, Sender
from infra.imports.source import fingerprint_all
from infra.imports.tally import NotApplied, Outcome, Tally
from infra.imports.totals import FactsReader, check_totals

CHUNK_ROWS: Final = 2_000
ASIDE_ROWS_MAX: Final = 1_000
DETAIL_LENGTH_MAX: Final = 200


def dry_run(job: ImportJob, watcher: Watcher | None = None) -> ImportReport:
    """Read the files, make every row's command and count; nothing is sent. Raises BadSource, BadMapping, BadRow."""
    watcher = watcher or NobodyWatches()
    started = monotonic()
    with planned(job.folder, job.mapping, job.realm) as plan:
        watcher.began(plan.rows_total, 0)
        tallies: dict[str, Tally] = {statement.name: Tally() for statement in job.mapping.statements}
        cursor = 0
        while cursor < plan.rows_total:
            for row in plan.read(cursor, CHUNK_ROWS):
                outcome: Outcome = "parked" if row.set_aside is not None else "applied"
                _count(tallies, row, outcome, row.set_aside or "ok")
                cursor = row.seq
            watcher.moved(cursor)
        return report_of(job.mapping, job.import_id, job.realm, plan.sizes, tallies, monotonic() - started, dry=True)


def run_import(
    job: ImportJob, engine: CommandSink, dsn: str, *, facts: FactsReader | None = None, watcher: Watcher | None = None
) -> ImportReport:
    """Run an import to its end, or take it up where it stopped, and reconcile it. Returns the report.

    ``dsn``: the event store's PostgreSQL, for cursor and totals. ``facts``: how to ask ClickHouse, if it is there.
    Raises ImportStopped (see :mod:`infra.imports.errors`) or StoreUnavailable; what was applied until then stays.
    """
    watcher = watcher or NobodyWatches()
    started = monotonic()
    sources = Sources(job.mapping.digest, fingerprint_all(job.folder, job.mapping))
    with progress_store(dsn, job.realm, job.import_id) as store:
        progress = _take_up(job, store, sources)
        with planned(job.folder, job.mapping, job.realm) as plan:
            store.save(progress)  # Not before: a file that turns out to be dirty may be mended without more ado.
            _Run(job, plan, Sender(engine, job.realm, job.import_id), store, progress, watcher).to_the_end()
            seconds = monotonic() - started
            totals = check_totals(job, plan, dsn, facts, watcher)
            return report_of(
                job.mapping, job.import_id, job.realm, plan.sizes, progress.tallies, seconds, totals=totals
            )


def _take_up(job: ImportJob, store: ProgressStore, sources: Sources) -> Progress:
    """Where the import stands. Files or a mapping other than it began with are refused unless the caller accepts them;

    then every row is sent again: those already answered are replayed, by their ids.
    """
    progress = store.load()
    if progress is not None and not (changes := progress.sources.changes_to(sources)):
        progress.resumed = True
        return progress
    if progress is not None and not job.accept_changed:
        raise SourceChanged(
            f"import {job.import_id} began with other content: {'; '.join(changes)}. Nothing was sent. "
            "Give the import a new name, or accept the change to send all rows again (answered ones are replayed)"
        )
    fresh = Progress(0, sources, {statement.name: Tally() for statement in job.mapping.statements})
    if progress is not None:
        fresh.clock, fresh.resumed = progress.clock, True
    return fresh


@dataclass(slots=True)
class _Chunk:
    """One stretch of the plan: its commands in order, and for each the row it came from (None: the clock's)."""

    last: int
    rows: list[PlannedRow] = field(default_factory=list)
    envelopes: list[CommandEnvelope] = field(default_factory=list)
    senders: list[PlannedRow | None] = field(default_factory=list)
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    bad: BadRow | None = None  # Found behind these rows: they are settled first, then the import stops.


class _Run:
    """One process's work on one import."""

    def __init__(
        self, job: ImportJob, plan: Plan, sender: Sender, store: ProgressStore, progress: Progress, watcher: Watcher
    ) -> None:
        self._job = job
        self._plan = plan
        self._sender = sender
        self._store = store
        self._progress = progress
        self._watcher = watcher
        self._clock: datetime | None = None  # What the last prepared command's time was.
        self._day: date | None = None
        self._pace = store.pace()
        self._aside_before: set[tuple[str, str]] | None = None

    def to_the_end(self) -> None:
        """Send what is left, one chunk at a time; the next one is prepared while the engine works on this one.

        Only one is under way: were two, a lost first one would have to be decided after the second one's time.
        """
        self._watcher.began(self._plan.rows_total, self._progress.cursor)
        chunk = self._prepare(self._progress.cursor)
        self._require_own_clock(chunk)
        while chunk.rows or chunk.bad:
            self._keep_step(chunk)
            sent = self._sender.submit(chunk.envelopes)
            following = self._prepare(chunk.last) if chunk.bad is None else _Chunk(chunk.last)
            self._settle(chunk, sent)
            if chunk.bad is not None:
                raise chunk.bad
            chunk = following
        if self._plan.clock_until is not None:
            self._pace.wait()
            self._advance(self._plan.clock_until)
        self._watcher.ended()

    def _keep_step(self, chunk: _Chunk) -> None:
        """Before the clock moves into another day, sagas and timers work off the one before."""
        if chunk.starts_at is None:
            return
        if self._day is not None and chunk.starts_at.date() != self._day:
            self._pace.wait()
        self._day = chunk.starts_at.date()

    def _require_own_clock(self, first: _Chunk) -> None:
        """Set the clock alone before anything else is sent: a realm that lives at another time is left as it is."""
        for answer in self._sender.answers(self._sender.submit(first.envelopes[:1])):
            if isinstance(clock := first.envelopes[0].command, AdvanceClock):
                self._require_clock(clock.to, answer, first.ends_at)

    def _prepare(self, after: int) -> _Chunk:
        chunk = _Chunk(after)
        try:
            for row in self._plan.read(after, CHUNK_ROWS):
                self._add(chunk, row)
        except BadRow as bad:
            chunk.bad = bad
        return chunk

    def _add(self, chunk: _Chunk, row: PlannedRow) -> None:
        chunk.rows.append(row)
        chunk.last = row.seq
        if row.command is None:
            return
        if self._clock is None or row.at > self._clock:
            self._clock = row.at
            chunk.envelopes.append(self._clock_envelope(row.at))
            chunk.senders.append(None)
        chunk.starts_at = chunk.starts_at or row.at
        chunk.ends_at = row.at
        chunk.envelopes.append(self._sender.envelope(f"{row.statement}:{row.row_key}", row.command))
        chunk.senders.append(row)

    def _advance(self, to: datetime) -> None:
        for answer in self._sender.answers(self._sender.submit([self._clock_envelope(to)])):
            self._require_clock(to, answer, None)

    def _clock_envelope(self, to: datetime) -> CommandEnvelope:
        return self._sender.envelope(f"@clock:{to.isoformat()}", AdvanceClock(to=to))

    def _settle(self, chunk: _Chunk, sent: InFlight) -> None:
        """Wait for the answers, record the rows set aside, and only then move the cursor past the chunk."""
        answers = self._sender.answers(sent)
        refused: dict[int, Answer] = {}
        for row, envelope, answer in zip(chunk.senders, chunk.envelopes, answers, strict=True):
            if isinstance(envelope.command, AdvanceClock) and row is None:
                self._require_clock(envelope.command.to, answer, chunk.ends_at)
            elif row is not None and not answer.accepted:
                refused[row.seq] = answer
        aside: dict[str, list[RowSetAside]] = defaultdict(list)
        for row in chunk.rows:
            if (refusal := refused.get(row.seq)) is not None:
                self._set_aside(aside, row, "refused", refusal.code, refusal.detail)
            elif row.set_aside is not None:
                self._set_aside(aside, row, "parked", row.set_aside, row.detail)
            else:
                _count(self._progress.tallies, row, "applied", "ok")
        self._record_aside(aside)
        self._progress.cursor = chunk.last
        self._progress.clock = chunk.ends_at or self._progress.clock
        self._store.save(self._progress)
        self._watcher.moved(chunk.last)

    def _set_aside(
        self, aside: dict[str, list[RowSetAside]], row: PlannedRow, outcome: NotApplied, code: str, detail: str
    ) -> None:
        _count(self._progress.tallies, row, outcome, code)
        amount = format(row.amount.normalize(), "f") if row.amount is not None else None
        aside[row.statement].append(
            RowSetAside(row=row.row_key, outcome=outcome, code=code, detail=detail[:DETAIL_LENGTH_MAX], amount=amount)
        )

    def _record_aside(self, aside: dict[str, list[RowSetAside]]) -> None:
        envelopes: list[CommandEnvelope] = []
        for statement, rows in aside.items():
            known = self._known_aside()
            fresh = [row for row in rows if (statement, row.row) not in known]
            for first in range(0, len(fresh), ASIDE_ROWS_MAX):
                batch = tuple(fresh[first : first + ASIDE_ROWS_MAX])
                command = SetRowsAside(import_id=self._job.import_id, statement=statement, rows=batch)
                # Named after its content: the same rows again are a retry, other rows are another command.
                digest = hashlib.sha256(command.model_dump_json().encode()).hexdigest()[:32]
                envelopes.append(self._sender.envelope(f"@aside:{digest}", command))
        for answer in self._sender.answers(self._sender.submit(envelopes)):
            if not answer.accepted:
                raise EngineUnreachable(f"rows set aside could not be recorded: {answer.code}: {answer.detail}")

    def _known_aside(self) -> set[tuple[str, str]]:
        """What an earlier run recorded behind its last cursor. Asked after this run's first answers:

        whatever the earlier process still had under way was then committed before them, under the append lock.
        """
        if self._aside_before is None:
            self._aside_before = self._store.rows_set_aside() if self._progress.resumed else set()
        return self._aside_before

    def _require_clock(self, to: datetime, answer: Answer, ends_at: datetime | None) -> None:
        """The clock may be ahead of a row that is sent again, but never ahead of everything this import has sent."""
        if answer.accepted:
            return
        furthest = max((moment for moment in (self._progress.clock, ends_at) if moment is not None), default=to)
        shows = answer.data.get("shows")
        if answer.code == ClockRunsForwardOnly.code and shows and datetime.fromisoformat(shows) <= furthest:
            return
        raise ClockElsewhere(
            f"the business clock of {self._job.realm.key} cannot be set to {to.isoformat()}: {answer.detail}. "
            "Import into a realm of its own"
        )


def _count(tallies: dict[str, Tally], row: PlannedRow, outcome: Outcome, code: str) -> None:
    tallies[row.statement].add(
        outcome, code, source_rows=row.source_rows, amount=row.amount, booked_minor=row.booked_minor
    )
