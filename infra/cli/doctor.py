"""``tessera doctor``: is everything there that is needed, and if not, what is the next step?"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Final, Literal

import typer
from rich.text import Text

from infra.cli.command import Session, command
from infra.cli.console import table
from infra.cli.errors import ExitCode, explain
from infra.settings import Settings

CLOCK_DIFFERENCE_SECONDS_MAX: Final = 1.0
LAG_EVENTS_MAX: Final = 10_000
DISK_FREE_BYTES_MIN: Final = 1 << 30
MEGABYTE: Final = 1 << 20

Level = Literal["ok", "warning", "problem", "unreachable"]

_MARKS: Final[dict[str, tuple[str, str]]] = {
    "ok": ("✓", "green"),
    "warning": ("!", "yellow"),
    "problem": ("✗", "red"),
    "unreachable": ("✗", "bold red"),
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what it is, how it is, why, and what to do about it."""

    thing: str
    level: Level
    detail: str
    next_step: str = ""


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "doctor", example="tessera doctor --json")(_doctor)


def _doctor(session: Session) -> ExitCode:
    """Look at every engine, the migrations, the clocks, the followers and the disk.

    Ends with 0 when all is well (warnings included), 3 when something is wrong, 4 when an engine is out of reach.
    """
    settings = session.settings
    findings: list[Finding] = []
    with session.out.progress("looking", total=len(_CHECKS)) as progress:
        for thing, check in _CHECKS:
            findings += _looked_at(thing, check, settings)
            progress.by()
    rows = [asdict(finding) for finding in findings]
    levels = {finding.level for finding in findings}
    verdict = "problem" if levels & {"problem", "unreachable"} else "warning" if "warning" in levels else "ok"
    shown = [{"": _MARKS[row["level"]][0], **row} for row in rows]
    columns = ("", "thing", "detail", "next_step") if verdict != "ok" else ("", "thing", "detail")
    body = table("", shown, columns, style=_style)
    session.out.show({"status": verdict, "findings": rows}, body, Text(), Text(_WORDS[verdict]))
    if "unreachable" in levels:
        return ExitCode.UNAVAILABLE
    return ExitCode.FINDINGS if "problem" in levels else ExitCode.OK


_WORDS: Final = {"ok": "All is well.", "warning": "It works; look at the warnings.", "problem": "Something needs you."}


def _style(column: str, value: object) -> str:
    return next((colour for mark, colour in _MARKS.values() if column == "" and mark == value), "")


def _looked_at(thing: str, check: Callable[[Settings], Iterator[Finding]], settings: Settings) -> list[Finding]:
    """A check's findings; whatever it raises is one more."""
    findings: list[Finding] = []
    try:
        findings.extend(check(settings))
    except Exception as error:  # noqa: BLE001 - a doctor does not fall ill from what it looks at.
        told = explain(error)
        level: Level = "unreachable" if told.code is ExitCode.UNAVAILABLE else "problem"
        where = f"{settings.data_dir}/logs/{thing.lower()}.log"
        step = f"Is it running, and is its address right? A local one logs to {where}."
        findings.append(Finding(thing, level, told.what, step if level == "unreachable" else told.next_step))
    return findings


def _postgres(settings: Settings) -> Iterator[Finding]:
    from infra.postgres.connections import connect

    with connect(settings.postgres_dsn, name="doctor", autocommit=True) as connection:
        asked = monotonic()
        row = connection.execute("SELECT current_setting('server_version'), clock_timestamp()").fetchone()
        assert row is not None
        answered = monotonic()
        version, now = row
    yield Finding("PostgreSQL", "ok", f"{version.split()[0]}, answers in {(answered - asked) * 1_000:.1f} ms")
    difference = abs((now - datetime.now(UTC)).total_seconds())
    if difference > CLOCK_DIFFERENCE_SECONDS_MAX:
        step = "Run a time service (chrony, systemd-timesyncd) on both machines: events take the database's time."
        yield Finding("clocks", "warning", f"PostgreSQL's clock is {difference:.1f} s away from ours", step)
    else:
        yield Finding("clocks", "ok", f"{difference * 1_000:.0f} ms apart")


def _migrations(settings: Settings) -> Iterator[Finding]:
    from infra.bootstrap import stores

    for store, names in stores.pending_migrations(settings).items():
        if names:
            yield Finding(f"{store} schema", "problem", f"pending: {', '.join(names)}", "Run `tessera migrate`.")
        else:
            yield Finding(f"{store} schema", "ok", "up to date")


def _redis(settings: Settings) -> Iterator[Finding]:
    from infra.redis.connection import connect, require_no_eviction

    with connect(settings.redis_url) as client:
        info = client.info()
        require_no_eviction(client)
    used = f"{info['used_memory'] / MEGABYTE:,.0f} MB used"
    yield Finding("Redis", "ok", f"{info['redis_version']}, maxmemory-policy noeviction, {used}")
    limit = int(info.get("maxmemory", 0))
    if limit and info["used_memory"] > 0.9 * limit:
        yield Finding("Redis memory", "warning", f"{used} of {limit / MEGABYTE:,.0f} MB", "Raise maxmemory.")


def _clickhouse(settings: Settings) -> Iterator[Finding]:
    from infra.clickhouse.connection import connect
    from infra.clickhouse.migrations import missing

    client = connect(settings.facts_url)
    try:
        version, dropped = client.command("SELECT version()"), missing(client)
    finally:
        client.close()
    yield Finding("ClickHouse", "ok", str(version))
    if dropped:
        step = "Run `tessera projections rebuild facts`: it brings them back, whole."
        yield Finding("facts", "problem", f"missing: {', '.join(dropped)}", step)


def _followers(settings: Settings) -> Iterator[Finding]:
    from infra import operations

    for each in operations.follower_standings(settings):
        if each.problem is not None:
            step = "Bring its engine back; the follower goes on by itself."
            yield Finding(each.name, "problem", f"cannot be read: {each.problem.splitlines()[0]}", step)
        elif each.halted is not None:
            step = "Upgrade what follows the log; it goes on by itself once it can read the event."
            yield Finding(each.name, "problem", f"halted: {each.halted}", step)
        elif each.lag is None:
            step = "Start `tessera up`, or `tessera worker sagas` and `tessera worker projections`."
            yield Finding(each.name, "warning", "has not begun", step)
        elif each.lag > LAG_EVENTS_MAX:
            yield Finding(each.name, "warning", f"{each.lag:,} events behind", "Is its worker running? See its log.")
        else:
            yield Finding(each.name, "ok", f"{each.lag:,} events behind" if each.lag else "has read everything")


def _dead_letters(settings: Settings) -> Iterator[Finding]:
    from infra.postgres import dead_letters
    from infra.postgres.connections import transaction

    with transaction(settings.postgres_dsn, name="doctor") as cursor:
        counts = dead_letters.count(cursor)
    for follower, count in counts.items():
        yield Finding("dead letters", "problem", f"{count:,} of {follower}", "`tessera dead-letters list` says why.")
    if not counts:
        yield Finding("dead letters", "ok", "none")


def _disk(settings: Settings) -> Iterator[Finding]:
    folder = settings.data_dir if settings.data_dir.exists() else settings.data_dir.absolute().parent
    free = shutil.disk_usage(folder).free
    detail = f"{free / (1 << 30):,.1f} GB free beside {settings.data_dir}"
    if free < DISK_FREE_BYTES_MIN:
        yield Finding("disk", "warning", detail, "Make room: PostgreSQL stops when it cannot write.")
    else:
        yield Finding("disk", "ok", detail)


_CHECKS: Final = (
    ("PostgreSQL", _postgres),
    ("Redis", _redis),
    ("ClickHouse", _clickhouse),
    ("migrations", _migrations),
    ("followers", _followers),
    ("dead letters", _dead_letters),
    ("disk", _disk),
)
