"""``tessera dead-letters``: events that a follower gave up on, and trying them again."""

import getpass
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.text import Text

from infra.cli import intake_letters
from infra.cli.command import Session, command, stated
from infra.cli.console import table
from infra.cli.errors import CliError, ExitCode, explain
from infra.cli.followers import INTAKE, require_known
from infra.cli.shards import Shard, at_shards

if TYPE_CHECKING:
    from infra.postgres.dead_letters import ParkedEvent

ROWS_MAX = 1_000
_Follower = Annotated[str, typer.Argument(help="Who gave up: a name that `dead-letters list` shows.")]


def register(group: typer.Typer) -> None:
    """Add the commands."""
    command(group, "list", example="tessera dead-letters list --follower sagas")(_list)
    command(group, "show", example="tessera dead-letters show sagas demo/shop/order/o-1")(_show)
    command(group, "requeue", example="tessera dead-letters requeue sagas demo/shop/order/o-1")(_requeue)
    command(group, "drop", example="tessera dead-letters drop wallet:v1 demo/shop/coupon/c-1 --reason 'test data'")(
        _drop
    )


def _list(
    session: Session,
    follower: Annotated[str | None, typer.Option(help="Only this follower's.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Those that are settled, too: sent again, dropped. By default: open ones.")
    ] = False,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=ROWS_MAX)] = 100,
    shard: Shard = None,
) -> ExitCode:
    """List what is parked, with its state; what only waits stands behind an earlier one of its stream.

    Records of Kafka that could not be taken in are listed as the intake's: by where they came from.
    """
    if follower is not None:
        require_known(session, follower)
    rows, counts = _parked(session, follower, shard, every=every, limit=limit)
    letters: list[dict[str, Any]] = []
    trouble: CliError | None = None
    try:
        letters = intake_letters.rows(session, follower)
    except Exception as error:
        if follower is not None:
            raise
        trouble = explain(error)  # What is parked in the store is shown all the same.
    waiting = [row for row in letters if row["state"] == intake_letters.OPEN]
    rows += (letters if every else waiting)[-limit:]
    if waiting:
        counts[INTAKE] = len(waiting)
    hidden = 0 if every else len(letters) - len(waiting)
    _show_list(session, rows, counts, hidden)
    if trouble is not None:
        session.out.complain(trouble)
        return trouble.code
    return ExitCode.FINDINGS if any(row["state"] not in _SETTLED for row in rows) else ExitCode.OK


_SETTLED: Final = frozenset({"sent again", "dropped"})


def _parked(
    session: Session, follower: str | None, shard: int | None, *, every: bool, limit: int
) -> tuple[list[dict[str, Any]], "Counter[str]"]:
    """What followers parked, as rows, and how many events each has; with ``every`` also what was dropped and passed."""
    from infra.postgres import dead_letters
    from infra.postgres.connections import transaction

    rows: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    for settings in at_shards(session, shard):
        with transaction(settings.postgres_dsn, name="dead-letters") as cursor:
            found = dead_letters.find(cursor, follower=follower, limit=limit)
            passed = dead_letters.dropped(cursor, follower=follower, limit=limit) if every else []
            counts.update(dead_letters.count(cursor))
        rows += [{"shard": settings.shard, "state": _state(each)} | asdict(each) for each in found]
        rows += [{"shard": settings.shard, "state": "dropped"} | asdict(each) for each in passed]
    return rows, counts


def _state(parked: "ParkedEvent") -> str:
    """What is going on with it. One that was dropped, or requeued, is still the follower's to pass or to try."""
    if parked.is_dropped:
        return "dropping"
    if parked.requeued_at is not None:
        return "requeued"
    return "failed" if parked.attempts else "waits"


def _show_list(session: Session, rows: list[dict[str, Any]], counts: "Counter[str]", hidden: int) -> None:
    columns = ("shard", "follower", "stream", "state", "version", "event_type", "attempts", "reason", "last_failed_at")
    shown = table("Dead letters", rows, columns, right=("shard", "version", "attempts"), whole=("stream", "state"))
    settled = "letter that is settled is" if hidden == 1 else "letters that are settled are"
    more = (Text(f"{hidden:,} {settled} left out; --all shows them.", style="dim"),) if hidden else ()
    session.out.show({"dead_letters": rows, "count_by_follower": dict(counts), "left_out": hidden}, shown, *more)


def _show(
    session: Session,
    follower: _Follower,
    stream: Annotated[str, typer.Argument(help="The stream, as `dead-letters list` shows it.")],
) -> ExitCode:
    """Show one stream's parked events: why, where it failed, since when, and the events themselves."""
    if follower == INTAKE:
        return intake_letters.show(session, stream)
    require_known(session, follower)
    from infra.cli.log_queries import events_at
    from infra.postgres import dead_letters
    from infra.postgres.connections import transaction

    rows: list[dict[str, object]] = []
    for settings in at_shards(session, None):
        with transaction(settings.postgres_dsn, name="dead-letters") as cursor:
            parked = dead_letters.find(cursor, follower=follower, stream=stream, limit=ROWS_MAX)
            events = {event["offset"]: event for event in events_at(cursor, [each.offset for each in parked])}
        rows += [{"shard": settings.shard, **asdict(each), "event": events.get(each.offset)} for each in parked]
    if not rows:
        raise CliError(f"{follower} has parked nothing of {stream}", next_step="`tessera dead-letters list` shows all.")
    session.out.show({"dead_letters": rows}, *(_detail(row) for row in rows))
    return ExitCode.FINDINGS


def _detail(row: dict[str, object]) -> Text:
    from infra.cli.console import to_json

    text = Text(f"{row['stream']}@{row['version']}", style="bold")
    text.append(f"   {row['event_type']} at offset {row['offset']}, {row['attempts']} attempts", style="dim")
    if row["first_failed_at"] is not None:
        text.append(f", failed from {row['first_failed_at']} to {row['last_failed_at']}", style="dim")
    text.append("\n")
    text.append(f"  {row['reason']}\n", style="red")
    if row["detail"]:
        text.append(f"{row['detail']}", style="dim")
    text.append(f"  {to_json(row['event'])}\n", style="dim")
    return text


def _requeue(
    session: Session,
    follower: _Follower,
    stream: Annotated[str | None, typer.Argument(help="One stream; without, all that this follower parked.")] = None,
    shard: Shard = None,
) -> ExitCode:
    """Have the follower try parked events again, in order; it does so by itself within its poll.

    Asked twice, or while it is at it, nothing happens twice. The intake's records go to their topics again.
    """
    if follower == INTAKE:
        return intake_letters.requeue(session, stream)
    require_known(session, follower)
    from infra.postgres import dead_letters
    from infra.postgres.connections import transaction

    requeued = 0
    for settings in at_shards(session, shard):
        with transaction(settings.postgres_dsn, name="dead-letters") as cursor:
            requeued += dead_letters.requeue(cursor, follower, stream)
    told = (
        f"{requeued} events will be tried again by {follower}." if requeued else f"{follower} has parked nothing there."
    )
    session.out.show({"requeued": requeued}, Text(told))
    return ExitCode.OK


def _drop(
    session: Session,
    follower: _Follower,
    stream: Annotated[str, typer.Argument(help="The stream, as `dead-letters list` shows it.")],
    reason: Annotated[str, typer.Option(help="Why: kept with who did it.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Give up, for one follower, the events of a stream that failed; what waits behind them is taken in.

    The log keeps them. But that follower no longer sees every event once: what it shows differs from the log, `verify`
    says so, and only a rebuild that can digest them mends it.
    """
    reason = stated(reason)
    if follower == INTAKE:
        intake_letters.drop(session, stream, reason=reason, yes=yes)
        return
    require_known(session, follower)
    from infra.postgres import dead_letters
    from infra.postgres.connections import transaction

    session.out.confirm(
        f"{follower} will never take in the failed events of {stream}, and will differ from the log. Give them up?",
        yes=yes,
    )
    rows: list[dict[str, Any]] = []
    for settings in at_shards(session, None):
        with transaction(settings.postgres_dsn, name="dead-letters") as cursor:
            actor = f"operator:{getpass.getuser()}"
            dropped = dead_letters.drop(cursor, follower, stream, actor=actor, reason=reason)
        rows += [{"shard": settings.shard} | asdict(each) for each in dropped]
    if not rows:
        raise CliError(f"nothing of {stream} failed at {follower}", next_step="`tessera dead-letters list` shows all.")
    versions = ", ".join(str(row["version"]) for row in rows)
    told = Text(f"{follower} passes over version {versions} of {stream}; what waits behind is taken in.")
    session.out.show({"dropped": rows}, told)
