"""``tessera demo``: a business day on a stack of its own, reconciled at the end."""

from pathlib import Path
from typing import Annotated

import typer

from infra.cli.command import Session, command
from infra.cli.errors import CliError, ExitCode

DEFAULT_SEED = 7


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "demo", example="tessera demo --seed 7 --scale 0.2")(_demo)


def _demo(
    session: Session,
    seed: Annotated[int, typer.Option(help="Another seed is another day; the same seed the same.")] = DEFAULT_SEED,
    scale: Annotated[float, typer.Option(help="1.0: 10,000 users rush for 1,000 coupons.", min=0.01, max=20.0)] = 1.0,
    keep: Annotated[
        Path | None, typer.Option(help="Keep the data in this (new) folder; `tessera up` goes on there.")
    ] = None,
    kafka: Annotated[
        bool, typer.Option("--kafka", help="Over a Kafka broker: commands and facts by topic, followers on topics.")
    ] = False,
) -> ExitCode:
    """Play a seeded business day on embedded engines, reconcile it, plant faults, and show that each is found.

    Ends with 0 only if everything is as it must be, else with 3. It needs no servers and leaves nothing behind.
    """
    from infra.demo.run import run_demo

    if keep is not None and keep.exists() and any(keep.iterdir()):
        raise CliError(f"{keep} is not empty", next_step="Name a new folder.", code=ExitCode.USAGE)
    result = run_demo(
        session.out.stderr if session.out.as_json else session.out.stdout,
        seed=seed,
        scale=scale,
        keep=keep,
        kafka=kafka,
    )
    if session.out.as_json:
        session.out.show(result.as_json())
    return ExitCode.OK if result.ok else ExitCode.FINDINGS
