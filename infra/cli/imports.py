"""``tessera import``: anybody's CSV or Parquet files through the engine, by a mapping."""

from pathlib import Path
from typing import Annotated

import typer

from infra.cli.command import Session, command
from infra.cli.errors import ExitCode
from infra.cli.telling import named_realm


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "import", example="tessera import ~/data/online-retail --mapping online_retail --dry-run")(_import)


def _import(
    session: Session,
    folder: Annotated[Path, typer.Argument(help="The folder with the files.")],
    mapping: Annotated[str, typer.Option(help="A mapping that comes along, or the folder of your own.")],
    tenant: Annotated[str | None, typer.Option(help="Into whose realm; else the mapping's own.")] = None,
    app: Annotated[str | None, typer.Option(help="The tenant's app; goes with --tenant.")] = None,
    name: Annotated[
        str | None, typer.Option(help="The import's name; else the mapping's. The same name resumes.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check everything, send nothing.")] = False,
    accept_changed: Annotated[
        bool, typer.Option("--accept-changed", help="The files changed since it began: send all rows again.")
    ] = False,
) -> ExitCode:
    """Turn files into commands and facts; resume where it stopped; then read the totals back from both stores.

    Ends with 3 when source and stores disagree.
    """
    from infra.imports import display, runner
    from infra.imports.job import ImportJob
    from infra.imports.mapping import find_mapping
    from infra.imports.report import NobodyWatches, Watcher

    realm = named_realm(tenant, app)
    found = find_mapping(mapping)
    job = ImportJob(folder, found, realm or found.realm, name or found.name, accept_changed)
    watcher: Watcher = NobodyWatches()
    if session.out.as_json:
        watcher = display.LineWatcher()
    elif session.out.stderr.is_terminal:
        watcher = display.BarWatcher(session.out.stderr)
    try:
        if dry_run:
            report = runner.dry_run(job, watcher)
        else:
            from infra import operations
            from infra.bootstrap import stores

            home = stores.at_home_of(session.settings, job.realm, "imports")
            with stores.running_engine(home) as engine, operations.facts(home) as facts:
                report = runner.run_import(job, engine, home.postgres_dsn, facts=facts.rows, watcher=watcher)
    finally:
        watcher.ended()  # The bar goes, whatever happened.
    if session.out.as_json:
        session.out.show(report.as_json())
    else:
        display.print_report(report, session.out.stdout)
    return ExitCode.OK if dry_run or report.agrees else ExitCode.FINDINGS
