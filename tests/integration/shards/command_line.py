"""``tessera`` for an operator of two shards: every command is given the settings of shard 0, which name both stores."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import psycopg
from typer.testing import CliRunner, Result

from contracts.commands import Command
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm
from infra.bootstrap.stores import running_engine
from infra.cli import app
from infra.settings import Settings
from tests.integration.shards.readside import PLACED

ZERO, ONE, GIANT = Realm("zero", "shop"), Realm("one", "shop"), Realm("giant", "shop")


class Operator:
    """Somebody at a shell, and what lies in either store."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def run(self, *arguments: str) -> Result:
        """``tessera …``."""
        folder = ("--data-dir", str(self.settings.data_dir))
        return CliRunner().invoke(app, [*arguments, *folder], env=self.settings.to_env())

    def shown(self, *arguments: str) -> dict[str, Any]:
        """What a command that must end well prints for programs."""
        result = self.run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        shown: dict[str, Any] = json.loads(result.stdout)
        return shown

    def tell(self, realm: Realm, *commands: Command) -> list[Answer]:
        """Commands that must be accepted, each at its shard."""
        with running_engine(self.settings) as engine:
            answers = [engine.execute(_envelope(realm, number, each)) for number, each in enumerate(commands)]
        assert all(answer.accepted for answer in answers), answers
        return answers

    def rows(self, shard: int, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """From one of the stores."""
        with psycopg.connect(self.settings.stores[shard]) as connection:
            return connection.execute(sql.encode(), values).fetchall()

    def streams(self, shard: int, realm: Realm) -> set[str]:
        """What one store knows of a realm: kinds and keys."""
        found = self.rows(shard, "SELECT DISTINCT originator_id FROM stored_events")
        names = [unquote(stream) for (stream,) in found]
        return {name.removeprefix(f"{realm.key}/") for name in names if name.startswith(f"{realm.key}/")}


def words(result: Result) -> str:
    """What a command complained of, as one line."""
    return " ".join(result.stderr.split())


def of(realm: Realm) -> tuple[str, ...]:
    """The options that say whose it is."""
    return ("--tenant", realm.tenant_id, "--app", realm.app_id)


def operator(folder: Path, dsns: Iterable[str], **given: Any) -> Operator:
    """Over these stores. Redis and ClickHouse are not asked, unless they are given."""
    zero, *others = dsns
    servers = {"redis_url": "redis://127.0.0.1:1/0", "clickhouse_url": "http://127.0.0.1:1/none", **given}
    placed = {**PLACED, "shard_dsns": dict(enumerate(others, start=1))}
    return Operator(Settings.load(**{"postgres_dsn": zero, "data_dir": folder, **placed, **servers}))


def _envelope(realm: Realm, number: int, command: Command) -> CommandEnvelope:
    return CommandEnvelope(realm, f"told-{command.type}-{number}", command, "test", "test")
