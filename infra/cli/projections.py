"""``tessera projections``: read models and facts, how far they are, and building them anew."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from infra.cli.command import Session, command
from infra.cli.console import table
from infra.cli.errors import ExitCode

if TYPE_CHECKING:
    from infra.operations import FollowerStanding

LAG_EVENTS_MAX = 10_000


def register(group: typer.Typer) -> None:
    """Add the commands."""
    command(group, "list", example="tessera projections list")(_list)
    command(group, "lag", example="tessera projections lag --max 1000")(_lag)
    command(group, "rebuild", example="tessera projections rebuild wallet")(_rebuild)
    command(group, "drop", example="tessera projections drop facts --yes")(_drop)


_Name = Annotated[str, typer.Argument(help="One that `projections list` shows.")]


def _list(session: Session) -> None:
    """Show every projection: which version readers use, where it stands, what is parked."""
    from infra import operations

    with operations.projections(session.settings) as service:
        rows = [state.as_json() for state in service.states()]
    shown = [{**row, "versions": ", ".join(f"v{version}" for version in row["versions"])} for row in rows]
    columns = ("name", "follower", "active", "versions", "offset", "lag", "parked", "ready")
    right = ("active", "offset", "lag", "parked")
    session.out.show({"projections": rows}, table("Projections", shown, columns, right=right))


def _lag(
    session: Session,
    most: Annotated[
        int, typer.Option("--max", help="More events behind than this is a finding.", min=0)
    ] = LAG_EVENTS_MAX,
) -> ExitCode:
    """Show how many events each follower is behind. Ends with 3 when one is further behind than --max."""
    from infra import operations

    rows = [
        {"follower": each.name, "offset": each.offset, "lag": each.lag, "state": lag_state(each, most)}
        for each in operations.follower_standings(session.settings)
    ]
    columns = ("follower", "offset", "lag", "state")
    session.out.show({"followers": rows}, table("Lag, in events", rows, columns, right=("offset", "lag")))
    return ExitCode.FINDINGS if any(row["state"] != "ok" for row in rows) else ExitCode.OK


def lag_state(standing: "FollowerStanding", most: int) -> str:
    """What to make of where a follower stands, in a few words."""
    if standing.problem is not None:
        return f"cannot be read: {standing.problem.splitlines()[0]}"
    if standing.halted is not None:
        return f"halted: {standing.halted.splitlines()[0]}"
    return "not begun" if standing.lag is None else "behind" if standing.lag > most else "ok"


def _rebuild(
    session: Session,
    name: Annotated[str, typer.Argument(help="One that `projections list` shows, or `all`.")],
) -> None:
    """Build a projection anew beside the old one and switch to it; readers notice nothing.

    The old version is kept until `projections drop`.
    """
    from infra import operations
    from infra.projections.service import NAMES

    reports = []
    with operations.projections(session.settings) as service:
        for each in NAMES if name == "all" else (name,):
            with session.out.progress(f"rebuilding {each}", total=1) as progress:
                reports.append(service.rebuild(each, lambda offset, head: progress.to(offset, total=head)))
    rows = [
        {
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
        for report in reports
    ]
    columns = ("name", "from", "to", "events", "offset", "parked", "content")
    right = ("from", "to", "events", "offset", "parked")
    session.out.show({"rebuilt": rows}, table("Rebuilt", rows, columns, right=right))


def _drop(
    session: Session,
    name: _Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete the versions of a projection that readers do not use. The one in use is never deleted."""
    from infra import operations

    session.out.confirm(f"Delete every version of {name} that readers do not use?", yes=yes)
    with operations.projections(session.settings) as service:
        dropped = service.drop(name)
    session.out.show({"name": name, "dropped": dropped}, Text(f"Dropped {dropped} unused versions of {name}."))
