"""``tessera doctor``: is everything there that is needed, and if not, what is the next step?"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from time import monotonic
from typing import Final, Literal

import typer
from rich.text import Text

from infra.cli.command import Session, command
from infra.cli.console import table
from infra.cli.errors import ExitCode, explain
from infra.cli.migrate import ALTER_TOPIC
from infra.settings import Settings

CLOCK_DIFFERENCE_SECONDS_MAX: Final = 1.0
LAG_EVENTS_MAX: Final = 10_000
DISK_FREE_BYTES_MIN: Final = 1 << 30
MEGABYTE: Final = 1 << 20

Check = Callable[[Settings], Iterator["Finding"]]
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
    """Look at every engine, the migrations, the clocks, the followers and the disk; of every shard, if there are more.

    Ends with 0 when all is well (warnings included), 3 when something is wrong, 4 when an engine is out of reach.
    """
    settings = session.settings
    findings: list[Finding] = []
    looks = [*_looks(settings)]
    with session.out.progress("looking", total=len(looks)) as progress:
        for look in looks:
            findings += _looked_at(*look)
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


def _looks(settings: Settings) -> Iterator[tuple[str, Check, Settings, str]]:
    """What is looked at: the thing, how, as seen from which shard, and how that is said where there are several."""
    several = len(settings.known_stores) > 1
    for thing, check, of_each_shard in _CHECKS:
        for shard in settings.known_stores if of_each_shard else (settings.shard,):
            where = f" of shard {shard}" if several and of_each_shard else ""
            yield thing, check, settings.at_shard(shard) if several else settings, where


def _looked_at(thing: str, check: Check, settings: Settings, where: str) -> list[Finding]:
    """A check's findings; whatever it raises is one more."""
    findings: list[Finding] = []
    try:
        findings.extend(check(settings))
    except Exception as error:  # noqa: BLE001 - a doctor does not fall ill from what it looks at.
        told = explain(error)
        level: Level = "unreachable" if told.code is ExitCode.UNAVAILABLE else "problem"
        log = f"{settings.data_dir}/logs/{thing.lower()}.log"
        step = f"Is it running, and is its address right? A local one logs to {log}."
        findings.append(Finding(thing, level, told.what, step if level == "unreachable" else told.next_step))
    return [replace(finding, thing=finding.thing + where) for finding in findings]


def _shards(settings: Settings) -> Iterator[Finding]:
    """Who lives where. Nothing to say where there is one store."""
    from infra.shards.distinct import require_distinct_stores

    if len(settings.stores) == 1:
        return
    known = ", ".join(map(str, settings.stores))
    if not settings.is_placed:
        yield Finding("shards", "ok", f"{known}; nobody is placed: all tenants are on shard {settings.shard}")
    else:
        placement = settings.placement
        lives = [f"{name} on {shard}" for name, shard in sorted(placement.tenants.items())]
        spread = [
            f"{name} over {', '.join(f'{shard} ({slots})' for shard, slots in sorted(told.items()))}"
            for name, told in sorted(settings.spread_tenants.items())
        ]
        told = "; ".join([*lives, *spread, f"everybody else on {placement.default}"])
        yield Finding("shards", "ok", f"{known} (own: {settings.shard}, with all API keys). {told}")
    require_distinct_stores(settings.stores)


def _postgres(settings: Settings) -> Iterator[Finding]:
    from infra.postgres.connections import connect
    from infra.postgres.epoch import read_epoch

    with connect(settings.postgres_dsn, name="doctor", autocommit=True) as connection, connection.cursor() as cursor:
        asked = monotonic()
        cursor.execute("SELECT current_setting('server_version'), clock_timestamp(), to_regclass('store_epoch')")
        row = cursor.fetchone()
        assert row is not None
        answered = monotonic()
        version, now, epochs = row
        epoch = None if epochs is None else read_epoch(cursor, settings.shard)
    opened = "never opened" if epoch is None else f"epoch {epoch}"
    yield Finding("PostgreSQL", "ok", f"{version.split()[0]}, {opened}, answers in {(answered - asked) * 1_000:.1f} ms")
    difference = abs((now - datetime.now(UTC)).total_seconds())
    if difference > CLOCK_DIFFERENCE_SECONDS_MAX:
        step = "Run a time service (chrony, systemd-timesyncd) on both machines: events take the database's time."
        yield Finding("clocks", "warning", f"PostgreSQL's clock is {difference:.1f} s away from ours", step)
    else:
        yield Finding("clocks", "ok", f"{difference * 1_000:.0f} ms apart")


def _migrations(settings: Settings) -> Iterator[Finding]:
    from infra.bootstrap import stores

    yield from _pending(stores.pending_at_shard(settings))


def _merged(settings: Settings) -> Iterator[Finding]:
    from infra.bootstrap import stores

    yield from _pending(stores.pending_over_shards(settings))


def _pending(pending: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    for store, names in pending.items():
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

    with closing(connect(settings.facts_url)) as client:
        version, dropped = client.command("SELECT version()"), missing(client)
    yield Finding("ClickHouse", "ok", str(version))
    if dropped:
        step = "Run `tessera projections rebuild facts`: it brings them back, whole."
        yield Finding("facts", "problem", f"missing: {', '.join(dropped)}", step)


def _kafka(settings: Settings) -> Iterator[Finding]:
    """Nothing to say where none is set: it carries, and decides nothing."""
    if settings.kafka_bootstrap is None:
        return
    from infra.intake.service import routed
    from infra.kafka.admin import differences, missing_of, not_made, require_partitions, topic_states
    from infra.kafka.groups import group_lags

    states = topic_states(settings)
    missing = not_made(states)
    idle = [state.name for state in states if state.partitions and not state.serving]
    if missing:
        yield Finding("Kafka", "problem", f"topics are missing: {', '.join(missing)}", "Run `tessera migrate`.")
    elif idle:
        yield Finding("Kafka", "problem", f"no leader: {', '.join(idle)}", "Bring the brokers back that hold them.")
    else:
        yield Finding("Kafka", "ok", f"{len(states)} topics; events in {settings.kafka_partitions} partitions each")
    if wrong := missing_of(settings, routed(settings)):
        step = "Mend TESSERA_KAFKA_ROUTES, or have their owner make them: the intake does not start without."
        yield Finding("Kafka routes", "problem", f"topics are missing: {', '.join(wrong)}", step)
    for each in differences(settings):
        if each.setting != "partitions":  # Told below, by what it means.
            yield Finding(each.topic, "warning", f"{each.setting} is {each.found}, not {each.declared}", ALTER_TOPIC)
    require_partitions(settings, states)
    for group, lag in sorted(group_lags(settings).items()):
        yield Finding(f"Kafka group {group}", "ok", f"{lag:,} messages behind" if lag else "has read everything")
    if not missing and not idle:
        yield _letters(settings)


def _letters(settings: Settings) -> Finding:
    """Records that could not be taken in: an upstream's order or payment that is nowhere else."""
    from infra.intake.letter_box import LetterBox

    waiting = sum(letter.settled is None for letter in LetterBox(settings).letters())
    if not waiting:
        return Finding("Kafka dead letters", "ok", "none")
    step = "`tessera dead-letters list --follower intake` says why."
    return Finding("Kafka dead letters", "problem", f"{waiting:,} of the intake", step)


def _followers(settings: Settings) -> Iterator[Finding]:
    from infra import operations

    for each in operations.follower_standings(settings):
        if each.problem is not None:
            step = "Bring its engine back; the follower goes on by itself."
            yield Finding(each.name, "problem", f"cannot be read: {each.problem.splitlines()[0]}", step)
        elif each.halted is not None:
            step = "Do what it says. A follower goes on by itself once it can."
            yield Finding(each.name, "problem", f"halted: {each.halted}", step)
        elif each.lag is None:
            step = "Start `tessera up`, or each worker: `tessera worker sagas`, `projections`, with Kafka `relay`."
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


# What is looked at, how, and whether each shard has its own.
_CHECKS: Final = (
    ("shards", _shards, False),
    ("PostgreSQL", _postgres, True),
    ("Redis", _redis, False),
    ("ClickHouse", _clickhouse, True),
    ("migrations", _migrations, True),
    ("migrations", _merged, False),
    ("Kafka", _kafka, False),
    ("followers", _followers, True),
    ("dead letters", _dead_letters, True),
    ("disk", _disk, False),
)
