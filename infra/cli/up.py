"""``tessera up``: the whole stack on this machine until Ctrl-C."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.text import Text

from contracts.read_models import MODELS, model_at
from infra.cli.command import Session, command
from infra.cli.console import Output, silence_stdout
from infra.cli.errors import CliError, ExitCode
from infra.settings import Settings
from infra.supervisor import Ended, Started

_KAFKA_LEFT_OUT = (
    "Kafka is left out, as you wished this time or the last: what comes in by topic waits there, and nothing is "
    "published. `tessera up --kafka` goes on with it."
)
SHARDS_MAX = 4  # On one machine: each has four processes and some thirty connections to the one PostgreSQL.


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "up", example="tessera up")(_up)


def _up(
    session: Session,
    port: Annotated[
        int | None, typer.Option(help="The API's port; else the last one used, or 8080.", min=1, max=65535)
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(help="How many shards a new data folder gets; an old one keeps its own.", min=1, max=SHARDS_MAX),
    ] = None,
    kafka: Annotated[
        bool | None,
        typer.Option("--kafka/--no-kafka", help="Start a Kafka broker, too, and work over it; else as the last time."),
    ] = None,
) -> ExitCode:
    """Start engines, API and workers, and keep them running until Ctrl-C.

    With --kafka a broker runs beside them: commands and facts may come in by topic, and followers read topics.

    A part that ends by itself is started again in its place, and you are told; one that keeps ending stops the rest.

    Data stays in the data folder. Ctrl-C stops everything in order; a second Ctrl-C kills. Several shards are databases
    of the one PostgreSQL, each with workers of its own, over which the tenant of the local key is spread evenly.
    """
    from infra.processes import port_is_free
    from infra.stack import LocalStack, PartFailed

    if port is not None and not port_is_free(port):
        raise CliError(f"port {port} is taken", next_step="Name another with --port.", code=ExitCode.USAGE)
    out = session.out
    try:
        with (
            _saying(out) as say,
            LocalStack(session.data_dir, port=port, shards=shards, kafka=kafka, say=say) as stack,
        ):
            say("")
            facts = _facts(stack, session.data_dir)
            out.line(facts, _welcome(facts))
            if stack.leaves_kafka_out:
                out.note(_KAFKA_LEFT_OUT)
            given_up = stack.wait(lambda what: _tell(out, session.data_dir, what))
            out.note("Stopping … (Ctrl-C again to kill)" if given_up is None else "Stopping the rest …")
    except PartFailed as error:
        raise CliError(str(error), next_step=f"Whole logs: {session.data_dir}/logs/") from error
    if given_up is not None:
        raise CliError(
            f"{given_up.ending.name} is given up after {given_up.ends} ends within a minute. At last {given_up.ending}",
            next_step=f"Its whole log is {_log_of(given_up, session.data_dir)}. Nothing that was acknowledged is lost: "
            "once the cause is mended, run `tessera up` again.",
        )
    out.note("Stopped. Data stays in " + str(session.data_dir))
    return ExitCode.OK


@contextmanager
def _saying(out: Output) -> "Iterator[Any]":
    """Say what is being started: on one line of a terminal, on lines of their own elsewhere."""
    if not out.stderr.is_terminal:
        yield lambda text: out.note(text) if text else None
        return
    with out.stderr.status("starting …") as status:

        def say(text: str) -> None:
            status.update(text + " …") if text else status.stop()

        yield say


def _tell(out: Output, data_dir: Path, what: Ended | Started) -> None:
    """Say that a part ended or was started again: a line on the terminal, or one of JSON."""
    at = datetime.now().astimezone()
    payload, text = _of_end(what, data_dir) if isinstance(what, Ended) else _of_start(what)
    try:
        out.line({"at": at.isoformat(), **payload}, Text.assemble((f"{at:%H:%M:%S} ", "dim"), text))
    except BrokenPipeError:  # Nobody reads it any more: no reason to stop.
        silence_stdout()


def _of_end(what: Ended, data_dir: Path) -> tuple[dict[str, Any], Text]:
    ending, pause = what.ending, what.pause_seconds
    then = "and is given up" if pause is None else f"and is started again in {pause:g} s"
    payload = {"ended": ending.name, "exit_code": ending.exit_code, "starts_in_seconds": pause}
    return payload, Text(f"{ending.what} {then}; its log: {_log_of(what, data_dir)}", style="yellow")


def _log_of(what: Ended, data_dir: Path) -> str:
    return f"{data_dir}/logs/{what.ending.name}.log"


def _of_start(what: Started) -> tuple[dict[str, Any], Text]:
    payload = {"started": what.name, "pid": what.pid}
    return payload, Text(f"{what.name} was started again (process {what.pid})", style="green")


def _facts(stack: Any, data_dir: Path) -> dict[str, Any]:
    redis = urlsplit(stack.settings.redis_url)
    clickhouse = urlsplit(stack.settings.all_facts_url)
    return {
        "http_url": stack.http_url,
        "key": stack.key.token,
        "tenant_id": stack.key.tenant_id,
        "app_id": stack.key.app_id,
        "postgres_dsn": stack.settings.postgres_dsn,
        "redis_url": stack.settings.redis_url,
        "redis_port": redis.port,
        "clickhouse_url": stack.settings.all_facts_url,
        "clickhouse_http": f"http://{clickhouse.hostname}:{clickhouse.port}/?database={clickhouse.path.strip('/')}",
        "kafka_bootstrap": stack.settings.kafka_bootstrap,
        "shards": _shards(stack.settings) if stack.settings.is_placed else [],
        "data_dir": str(data_dir),
        "pids": stack.pids,
    }


def _shards(settings: Settings) -> list[dict[str, Any]]:
    """What each shard has of its own."""
    return [
        {
            "shard": shard,
            "slots": {tenant: slots[shard] for tenant, slots in settings.spread_tenants.items() if shard in slots},
            "postgres_dsn": dsn,
            "clickhouse_url": settings.at_shard(shard).facts_url,
            "redis_models": [model_at(model, shard) for model in MODELS],
        }
        for shard, dsn in settings.stores.items()
    ]


def _welcome(facts: dict[str, Any]) -> Text:
    """Lines, not a box: each can be copied as it stands."""
    from infra.processes import as_typed

    rows = (
        ("API", facts["http_url"], "/openapi.json  /health/ready  /metrics"),
        ("Key", facts["key"], f"tenant {facts['tenant_id']}, app {facts['app_id']}"),
        ("curl", f"curl -H 'Authorization: Bearer {facts['key']}' {facts['http_url']}/v1/templates", ""),
        ("Redis", f"{as_typed('redis-cli')} -p {facts['redis_port']}", ""),
        ("ClickHouse", f"curl '{facts['clickhouse_http']}' -d 'SHOW TABLES'", ""),
        ("PostgreSQL", f"psql '{facts['postgres_dsn']}'", "the log: view events"),
        *(
            [("Kafka", kafka, "topics: docs/kafka.md; --no-kafka leaves it out")]
            if (kafka := facts["kafka_bootstrap"])
            else []
        ),
        ("CLI", _second_terminal(facts["data_dir"]), "in another terminal"),
        ("Data", facts["data_dir"], "logs in logs/"),
    )
    text = Text.assemble(("✓ Tessera is up", "bold green"), ("   Ctrl-C stops it\n", "dim"))
    for name, value, note in (*rows, *map(_shard_row, facts["shards"])):
        text.append(f"  {name:<11}", style="bold")
        text.append(value)
        text.append(f"   {note}\n" if note else "\n", style="dim")
    text.rstrip()
    return text


def _shard_row(shard: dict[str, Any]) -> tuple[str, str, str]:
    slots = "; ".join(f"slots {ranges} of {tenant}" for tenant, ranges in shard["slots"].items())
    postgres, clickhouse = (urlsplit(shard[url]).path.strip("/") for url in ("postgres_dsn", "clickhouse_url"))
    where = f"PostgreSQL {postgres}, ClickHouse {clickhouse}, Redis {shard['redis_models'][0]}:…"
    return f"Shard {shard['shard']}", slots or "tenants that are placed there", where


def _second_terminal(data_dir: str) -> str:
    from infra.processes import as_typed

    suffix = "" if data_dir == ".tessera" else f" --data-dir {data_dir}"
    return f"{as_typed('tessera')} doctor{suffix}"
