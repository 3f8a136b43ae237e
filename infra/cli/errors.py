"""What a command's end means to a script, and errors that say what happened and what to do next."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class ExitCode(IntEnum):
    """Every command ends with one of these (docs/operations.md has the table)."""

    OK = 0
    ERROR = 1  # It could not be done; the message says why.
    USAGE = 2  # The command line or a setting is wrong.
    FINDINGS = 3  # It was done, and it found something: breaks, violations, drift, dead letters.
    UNAVAILABLE = 4  # A server that is needed cannot be reached; trying again later makes sense.
    INTERRUPTED = 130  # Ctrl-C.


class CliError(Exception):
    """A command cannot go on: what happened, and the next step for whoever reads it."""

    def __init__(self, what: str, *, next_step: str = "", code: ExitCode = ExitCode.ERROR) -> None:
        super().__init__(what)
        self.what = what
        self.next_step = next_step
        self.code = code


@dataclass(frozen=True)
class _Translation:
    """How an exception of a part is told to people. Named by text: a command loads only the parts it needs."""

    name: str
    code: ExitCode
    next_step: str


_LOOK_AT_SERVERS: Final = "See `tessera doctor` for what is reachable; then run this again."

_TRANSLATIONS: Final = (
    _Translation("infra.settings.SettingsError", ExitCode.USAGE, ""),
    _Translation("command.ports.StoreUnavailable", ExitCode.UNAVAILABLE, _LOOK_AT_SERVERS),
    _Translation("query.ports.ReadModelUnavailable", ExitCode.UNAVAILABLE, _LOOK_AT_SERVERS),
    _Translation("psycopg.OperationalError", ExitCode.UNAVAILABLE, _LOOK_AT_SERVERS),
    _Translation("redis.exceptions.ConnectionError", ExitCode.UNAVAILABLE, _LOOK_AT_SERVERS),
    _Translation("redis.exceptions.TimeoutError", ExitCode.UNAVAILABLE, _LOOK_AT_SERVERS),
    _Translation("clickhouse_connect.driver.exceptions.OperationalError", ExitCode.UNAVAILABLE, _LOOK_AT_SERVERS),
    _Translation(
        "infra.kafka.admin.TopicsMissing",
        ExitCode.ERROR,
        "If they are there under other names: TESSERA_KAFKA_PREFIX is what stands before each.",
    ),
    _Translation(
        "infra.intake.service.RoutedTopicsMissing",
        ExitCode.ERROR,
        "Mend the names (the prefix comes before them), or have their owner make them: `tessera migrate` does not.",
    ),
    _Translation(
        "infra.processes.FolderInUse",
        ExitCode.ERROR,
        "A stack already runs on this folder: use it, stop it, or name another folder with --data-dir.",
    ),
    _Translation(
        "infra.shards.router.NotPlaceable",
        ExitCode.USAGE,
        "Name a tenant that lives on one shard: `tessera doctor` shows who lives where.",
    ),
    _Translation(
        "infra.local_shards.OtherShards", ExitCode.USAGE, "Name another folder, or as many shards as it was made for."
    ),
    _Translation("infra.processes.StillRunning", ExitCode.ERROR, "Stop that process, then run this again."),
    _Translation("infra.stack.PartFailed", ExitCode.ERROR, "Its whole log is in the data folder's logs/."),
    _Translation(
        "infra.bootstrap.workers.WorkerHalted", ExitCode.ERROR, "See `tessera doctor` and `tessera dead-letters list`."
    ),
    _Translation(
        "infra.bootstrap.processes.MetricsPortTaken",
        ExitCode.USAGE,
        "Name another with TESSERA_FOLLOWER_METRICS_PORT; of several workers each takes the next one.",
    ),
    _Translation(
        "infra.operations.NotQuiet", ExitCode.UNAVAILABLE, "`tessera sagas list --stuck` and the logs say why."
    ),
    _Translation(
        "infra.projections.service.UnknownProjection", ExitCode.USAGE, "`tessera projections list` shows them."
    ),
    _Translation("infra.projections.rebuild.RebuildRefused", ExitCode.ERROR, "Nothing was switched; see the reason."),
    _Translation("infra.embedded.engine.EngineFailed", ExitCode.UNAVAILABLE, "Its log is in the data folder's logs/."),
    _Translation("infra.postgres.epoch.RestoreIncomplete", ExitCode.ERROR, "Nothing was changed."),
    _Translation(
        "infra.postgres.migrations.MigrationRefused", ExitCode.ERROR, "Run the version that fits the database."
    ),
    _Translation(
        "contracts.registry.UnknownEventType", ExitCode.ERROR, "Upgrade this installation, then run it again."
    ),
    _Translation("infra.redis.connection.RedisUnavailable", ExitCode.UNAVAILABLE, _LOOK_AT_SERVERS),
    _Translation(
        "infra.redis.connection.WrongEvictionPolicy",
        ExitCode.ERROR,
        "CONFIG SET maxmemory-policy noeviction, and in redis.conf.",
    ),
    _Translation("infra.clickhouse.connection.ClickHouseUnavailable", ExitCode.UNAVAILABLE, _LOOK_AT_SERVERS),
    _Translation("infra.clickhouse.connection.FactsDamaged", ExitCode.ERROR, "`tessera doctor` names what is missing."),
    _Translation(
        "infra.clickhouse.migrations.MigrationRefused", ExitCode.ERROR, "Run the version that fits the database."
    ),
    _Translation("infra.kafka.client.NoKafka", ExitCode.USAGE, ""),
    _Translation("infra.kafka.client.SessionNotAllowed", ExitCode.USAGE, ""),
    _Translation("infra.kafka.errors.KafkaUnavailable", ExitCode.UNAVAILABLE, _LOOK_AT_SERVERS),
    _Translation("infra.kafka.admin.WrongPartitions", ExitCode.ERROR, "Nothing was made or changed."),
    _Translation("infra.kafka.admin.TopicRefused", ExitCode.ERROR, "Mend that, then run this again."),
    _Translation("infra.imports.errors.SourceChanged", ExitCode.ERROR, "--accept-changed, or another --name."),
    _Translation("infra.imports.errors.BadMapping", ExitCode.USAGE, "Mend the mapping, or name another."),
    _Translation(
        "infra.imports.errors.BadSource",
        ExitCode.ERROR,
        "Mend the file and run this again: it goes on where it stopped.",
    ),
    _Translation(
        "infra.imports.errors.BadRow",
        ExitCode.ERROR,
        "Mend the file (or the mapping) and run this again: it goes on where it stopped.",
    ),
    _Translation("infra.imports.errors.ImportStopped", ExitCode.ERROR, "Run it again: it goes on where it stopped."),
    _Translation("infra.projections.ports.Busy", ExitCode.UNAVAILABLE, "Try again when the other one is done."),
    _Translation("infra.projections.ports.Halt", ExitCode.ERROR, ""),
    _Translation("builtins.PermissionError", ExitCode.ERROR, "Check who owns the file or folder."),
    _Translation("builtins.FileNotFoundError", ExitCode.USAGE, "Check the path."),
)


def explain(error: Exception) -> CliError:
    """Any exception as something to read: known ones with a next step, others as a defect of ours."""
    if isinstance(error, CliError):
        return error
    if isinstance(error, ExceptionGroup):  # Several tasks; the first one's error is what the others ended for.
        return explain(error.exceptions[0])
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    names |= {f"psycopg.{kind.__qualname__}" for kind in type(error).__mro__ if kind.__module__ == "psycopg.errors"}
    for each in _TRANSLATIONS:
        if each.name in names:
            return CliError(str(error).strip() or each.name, next_step=each.next_step, code=each.code)
    return CliError(
        f"unexpected {type(error).__name__}: {error}",
        next_step="This is a defect: run it again with --debug and report what it prints.",
    )
