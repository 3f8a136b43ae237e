"""``tessera``: every command and group, in the order in which help shows them."""

import sys
from typing import Annotated

import typer

from infra.cli import (
    codes,
    dead_letters,
    demo,
    distribute,
    doctor,
    events,
    imports,
    intake,
    keys,
    leases,
    migrate,
    projections,
    reconcile,
    restored,
    sagas,
    serve,
    up,
    verify,
    worker,
)

HELP = """A promotion engine whose books always balance.

`tessera demo` shows a whole business day; `tessera up` keeps a local stack running for every other command."""

app = typer.Typer(
    name="tessera",
    help=HELP,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for each in (up, demo, serve, migrate, verify, doctor, imports, restored):
    each.register(app)
for name, group, what in (
    ("worker", worker, "Run one part of the system: sagas, projections, distributions, leases, intake or relay."),
    ("distribute", distribute, "Give one template to a list of up to a million users."),
    ("codes", codes, "Batches of codes, and the keys they are sealed with."),
    ("events", events, "Read the log."),
    ("projections", projections, "Read models and facts: list, lag, rebuild, drop."),
    ("sagas", sagas, "Checkouts: where each stands, and why."),
    ("leases", leases, "Budgets that several shards spend from: who has what, and do the books agree?"),
    ("reconcile", reconcile, "Three ledgers and the money: do they agree?"),
    ("dead-letters", dead_letters, "Events that a follower gave up on."),
    ("intake", intake, "Records of Kafka that hold their partition."),
    ("keys", keys, "API keys."),
):
    below = typer.Typer(help=what, no_args_is_help=True, rich_markup_mode="rich")
    group.register(below)
    app.add_typer(below, name=name)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"tessera {version('tessera')}")
        raise typer.Exit


@app.callback()
def _root(
    _shown: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options that stand before any command."""


def main() -> None:
    """The console script."""
    app(prog_name="tessera", args=sys.argv[1:])
