"""``tessera worker``: one follower of the log, or the intake of Kafka, as a process of its own."""

import typer

from infra.cli.command import Session, command


def register(group: typer.Typer) -> None:
    """Add the commands."""
    command(group, "sagas", example="tessera worker sagas")(_sagas)
    command(group, "distributions", example="tessera worker distributions")(_distributions)
    command(group, "leases", example="tessera worker leases")(_leases)
    command(group, "intake", example="tessera worker intake")(_intake)
    command(group, "projections", example="tessera worker projections")(_projections)
    command(group, "relay", example="tessera worker relay")(_relay)


def _sagas(session: Session) -> None:
    """Run the checkout sagas, their outbox and the timers until SIGTERM or Ctrl-C."""
    from infra.bootstrap import workers

    workers.run_sagas(session.settings)


def _distributions(session: Session) -> None:
    """Carry distributions out, a chunk at a time, until SIGTERM or Ctrl-C; another one goes on where this one stops."""
    from infra.bootstrap import workers

    workers.run_distributions(session.settings)


def _leases(session: Session) -> None:
    """Lease this shard's shared budgets to the other shards, and take back what they leave, until SIGTERM or Ctrl-C."""
    from infra.bootstrap import workers

    workers.run_leases(session.settings)


def _intake(session: Session) -> None:
    """Take commands and upstream facts in from Kafka's topics, and answer them there, until SIGTERM or Ctrl-C."""
    from infra.bootstrap import workers

    workers.run_intake(session.settings)


def _projections(session: Session) -> None:
    """Keep the read models in Redis and the facts in ClickHouse current until SIGTERM or Ctrl-C."""
    from infra.bootstrap import workers

    workers.run_projections(session.settings)


def _relay(session: Session) -> None:
    """Publish this shard's log to Kafka until SIGTERM or Ctrl-C; a second one waits and takes over."""
    from infra.bootstrap import workers

    workers.run_relay(session.settings)
