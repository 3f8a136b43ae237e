"""Who may have parked events: the names that commands take for a follower."""

from collections.abc import Iterator
from typing import Final

from infra.cli.command import Session
from infra.cli.errors import CliError, ExitCode
from infra.cli.shards import at_shards

INTAKE: Final = "intake"
SAGAS: Final = "sagas"


def require_known(session: Session, name: str) -> None:
    """Raises CliError, with the names that there are, for one that is nobody's: that it has nothing would be a lie."""
    if name in {INTAKE, SAGAS} or name in (parked := set(_of_the_store(session))):
        return
    known = [INTAKE, SAGAS, *sorted(parked | {*_versions(session)})]
    if name in known or f"{name.partition(':')[0]}:v…" in known:
        return
    told = ", ".join(dict.fromkeys(known))
    raise CliError(f"there is no follower {name!r}", next_step=f"There are: {told}.", code=ExitCode.USAGE)


def _of_the_store(session: Session) -> Iterator[str]:
    """Those that parked or dropped something, versions that are no more included."""
    from infra.postgres import dead_letters
    from infra.postgres.connections import transaction

    for settings in at_shards(session, None):
        with transaction(settings.postgres_dsn, name="dead-letters") as cursor:
            yield from dead_letters.followers(cursor)


def _versions(session: Session) -> Iterator[str]:
    """Every version of every projection; where its engine is away, ``wallet:v…``: it may have any."""
    from infra import operations

    for settings in at_shards(session, None):
        with operations.projections(settings) as service:
            for state in service.states():
                yield from (f"{state.name}:v{version}" for version in state.versions or ("…",))
