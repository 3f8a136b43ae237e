"""``tessera projections``: read models and facts, how far they are, and building them anew."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from infra.cli.command import Session, command
from infra.cli.console import table
from infra.cli.errors import ExitCode
from infra.cli.shards import Shard, at_shards

if TYPE_CHECKING:
    from infra.operations import FollowerStanding
    from infra.projections.rebuild import RebuildReport
    from infra.projections.service import ProjectionService

LAG_EVENTS_MAX = 10_000


def register(group: typer.Typer) -> None:
    """Add the commands."""
    command(group, "list", example="tessera projections list")(_list)
    command(group, "lag", example="tessera projections lag --max 1000")(_lag)
    command(group, "rebuild", example="tessera projections rebuild wallet")(_rebuild)
    command(group, "drop", example="tessera projections drop facts --yes")(_drop)
    command(group, "checksum", example="tessera projections checksum wallet")(_checksum)


_Name = Annotated[str, typer.Argument(help="One that `projections list` shows.")]
_NameOrAll = Annotated[
    str, typer.Argument(help="One that `projections list` shows, `all`, or `halted`: those that cannot go on.")
]


def _list(session: Session, shard: Shard = None) -> None:
    """Show every projection: which version readers use, where it stands, what is parked."""
    from infra import operations

    rows: list[dict[str, Any]] = []
    for settings in at_shards(session, shard):
        with operations.projections(settings) as service:
            rows += [{"shard": settings.shard, **state.as_json()} for state in service.states()]
    shown = [{**row, "versions": ", ".join(f"v{version}" for version in row["versions"])} for row in rows]
    columns = ("shard", "name", "follower", "active", "versions", "offset", "lag", "parked", "ready")
    right = ("shard", "active", "offset", "lag", "parked")
    session.out.show({"projections": rows}, table("Projections", shown, columns, right=right))


def _lag(
    session: Session,
    most: Annotated[
        int, typer.Option("--max", help="More events behind than this is a finding.", min=0)
    ] = LAG_EVENTS_MAX,
    shard: Shard = None,
) -> ExitCode:
    """Show how many events each follower is behind. Ends with 3 when one is further behind than --max."""
    from infra import operations

    rows = [
        {
            "shard": settings.shard,
            "follower": each.name,
            "offset": each.offset,
            "lag": each.lag,
            "state": lag_state(each, most),
        }
        for settings in at_shards(session, shard)
        for each in operations.follower_standings(settings)
    ]
    columns = ("shard", "follower", "offset", "lag", "state")
    session.out.show({"followers": rows}, table("Lag, in events", rows, columns, right=("shard", "offset", "lag")))
    return ExitCode.FINDINGS if any(row["state"] != "ok" for row in rows) else ExitCode.OK


def lag_state(standing: "FollowerStanding", most: int) -> str:
    """What to make of where a follower stands, in a few words."""
    if standing.problem is not None:
        return f"cannot be read: {standing.problem.splitlines()[0]}"
    if standing.halted is not None:
        return f"halted: {standing.halted.splitlines()[0]}"
    return "not begun" if standing.lag is None else "behind" if standing.lag > most else "ok"


def _rebuild(session: Session, name: _NameOrAll, shard: Shard = None) -> None:
    """Build a projection anew beside the old one and switch to it; readers notice nothing.

    The old version is kept until `projections drop`.
    """
    from infra import operations

    rows: list[dict[str, Any]] = []
    for settings in at_shards(session, shard):
        with operations.projections(settings) as service:
            for each in _named(name, service):
                with session.out.progress(f"rebuilding {each} of shard {settings.shard}", total=1) as progress:
                    report = service.rebuild(each, lambda offset, head: progress.to(offset, total=head))
                rows.append({"shard": settings.shard, **_rebuilt(report)})
    columns = ("shard", "name", "from", "to", "events", "offset", "parked", "content")
    right = ("shard", "from", "to", "events", "offset", "parked")
    session.out.show({"rebuilt": rows}, table("Rebuilt", rows, columns, right=right))


def _named(name: str, service: "ProjectionService") -> Sequence[str]:
    from infra.projections.service import NAMES

    if name == "halted":
        return [state.name for state in service.states() if state.halted is not None]
    return NAMES if name == "all" else (name,)


def _rebuilt(report: "RebuildReport") -> dict[str, Any]:
    return {
        "name": report.name,
        "from": report.from_version,
        "to": report.to_version,
        "events": report.events,
        "offset": report.offset,
        "parked": report.parked,
        "content": "as before" if not report.changed else "was damaged" if report.before is None else "differs",
        "before": report.before,
        "after": report.after,
    }


def _drop(
    session: Session,
    name: _Name,
    shard: Shard = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete the versions of a projection that readers do not use. The one in use is never deleted."""
    from infra import operations

    session.out.confirm(f"Delete every version of {name} that readers do not use?", yes=yes)
    rows = []
    for settings in at_shards(session, shard):
        with operations.projections(settings) as service:
            rows.append({"shard": settings.shard, "dropped": service.drop(name)})
    dropped = sum(row["dropped"] for row in rows)
    told = Text(f"Dropped {dropped} unused versions of {name}.")
    session.out.show({"name": name, "dropped": dropped, "shards": rows}, told)


def _checksum(session: Session, name: _NameOrAll = "all", shard: Shard = None) -> None:
    """Add up what projections hold: the same number means the same content. Comparable while nothing is written."""
    from infra import operations

    rows: list[dict[str, Any]] = []
    for settings in at_shards(session, shard):
        with operations.projections(settings) as service:
            sums = service.checksums(_named(name, service))
        rows += [{"shard": settings.shard, "name": each, "checksum": told} for each, told in sums.items()]
    shown = [{**row, "checksum": str(row["checksum"]).replace(" ", "\n") or "not built"} for row in rows]
    session.out.show({"checksums": rows}, table("Checksums", shown, ("shard", "name", "checksum"), right=("shard",)))
