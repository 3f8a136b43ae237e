"""``tessera intake``: have the intake step over records of Kafka that no client can take apart."""

import getpass
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.text import Text

from infra.cli.command import Session, command, stated
from infra.cli.console import table
from infra.cli.errors import CliError, ExitCode
from infra.cli.shards import at_shards

if TYPE_CHECKING:
    from infra.intake.dead_letters import Origin


def register(group: typer.Typer) -> None:
    """Add the commands."""
    example = "tessera intake skip order-event-topic:3:1207 --reason 'sent again by its sender'"
    command(group, "skip", example=example)(_skip)


def _skip(
    session: Session,
    record: Annotated[
        str, typer.Argument(help="TOPIC:PARTITION:OFFSET, as `partition_cannot_be_read` in the log has it.")
    ],
    reason: Annotated[str, typer.Option(help="Why: kept with who did it.")],
    upto: Annotated[
        int | None, typer.Option(help="The last offset, where a whole batch cannot be read; else the one alone.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Step over a record that cannot be read and holds its partition; the intake need not be stopped.

    It does so within half a minute, and only if it still cannot read the record: a dead letter first, with origin and
    reason (the bytes cannot be had), then the position. What can be read by then is taken in as ever.
    """
    from infra.intake.dead_letters import Origin
    from infra.intake.stepping_over import OFFSETS_MAX
    from infra.postgres import intake_skips
    from infra.postgres.connections import transaction

    reason = stated(reason)
    try:
        at = Origin.parse(record)
    except ValueError:
        raise CliError(
            f"{record!r} is no place on a topic", next_step="Name TOPIC:PARTITION:OFFSET.", code=ExitCode.USAGE
        ) from None
    last = at.offset if upto is None else upto
    if not at.offset <= last < at.offset + OFFSETS_MAX:
        raise CliError(f"--upto must be {at.offset} to {at.offset + OFFSETS_MAX - 1}", code=ExitCode.USAGE)
    _require_waiting(session, at, last)
    records = f"{at}" if last == at.offset else f"{at} to {last}"
    session.out.confirm(f"Give up {records}, if the intake cannot read it? Only its place is kept", yes=yes)
    skip = intake_skips.Skip(*at, last, reason, f"operator:{getpass.getuser()}")
    known: list[dict[str, Any]] = []
    for settings in at_shards(session, None):  # An intake looks into the store of its own shard, whichever that is.
        with transaction(settings.postgres_dsn, name="intake-skip") as cursor:
            known.append(asdict(intake_skips.ask(cursor, skip)))
    columns = ("topic", "partition", "first", "last", "reason", "asked_by", "asked_at")
    wish = table("To be stepped over, if they cannot be read", known[:1], columns, whole=("topic",))
    then = Text(_THEN.format(name=at), style="dim")
    session.out.show({"skips": known[:1], "letter": f"{at}"}, wish, then)


_THEN: Final = """
A running intake (`tessera worker intake`) does it within half a minute, and logs `records_stepped_over`. Then:
  tessera dead-letters show intake {name}    # place and error; none: it could be read, and was taken in
Have its sender send it again: nobody else has what it said."""


def _require_waiting(session: Session, at: "Origin", last: int) -> None:
    """Raises CliError unless these are records that are there, are taken in, and are not finished."""
    from infra.intake.positions import NotTakenIn, stands

    try:
        place = stands(session.settings, at.topic, at.partition)
    except NotTakenIn as error:
        log = "`partition_cannot_be_read` in the intake's log names topic, partition and offset."
        raise CliError(str(error), next_step=log) from None
    if last >= place.end:
        ends = f"its last one is {place.end - 1}" if place.end else "it is empty"
        raise CliError(
            f"{at.topic}:{at.partition} has no record {last} yet: {ends}",
            next_step="Name the offset that `partition_cannot_be_read` in the intake's log has.",
        )
    if at.offset < place.committed:
        raise CliError(
            f"{at} is finished: the intake stands at {place.committed}",
            next_step=f"`tessera dead-letters show intake {at}`, if it could not be taken in.",
        )
