"""Everything that can be set from outside: read once, validated at start, handed to child processes."""

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import (
    SettingsError as UnreadableSetting,
)

from contracts.placement import Placement
from contracts.topics import PARTITIONS

ENV_PREFIX = "TESSERA_"
FILE_NAME = "tessera.toml"
_KEY = "[key]"  # How pydantic marks that a table's key is wrong, not its value.
DEFAULT_DATA_DIR = Path(".tessera")


class SettingsError(ValueError):
    """A setting is missing or wrong. The message names each environment variable and says what to do."""


def _url_of(*schemes: str) -> AfterValidator:
    def check(value: str) -> str:
        url = urlsplit(value)
        if url.scheme not in schemes or not (url.hostname or url.path):
            raise ValueError(f"must be a URL like {schemes[0]}://host:port")
        return value

    return AfterValidator(check)


def _check_servers(value: str) -> str:
    for server in value.split(","):
        host, _, port = server.strip().rpartition(":")
        if not host or not port.isdigit() or not 1 <= int(port) <= 65_535:
            raise ValueError("must be brokers like host:9092,host:9092")
    return value


_PostgresDsn = Annotated[str, _url_of("postgresql", "postgres")]
_RedisUrl = Annotated[str, _url_of("redis", "rediss", "unix")]
_HttpUrl = Annotated[str, _url_of("http", "https")]
_Servers = Annotated[str, AfterValidator(_check_servers)]
_TakenIn = Literal["coupon-command-topic", "order-event-topic", "payment-event-topic"]
_RealmName = Annotated[str, Field(pattern=r"^[!-.0-~]{1,128}/[!-.0-~]{1,128}$")]
_Port = Annotated[int, Field(ge=1, le=65_535)]
_Shard = Annotated[int, Field(ge=0, le=32_767)]


class Settings(BaseSettings):
    """The settings of one process; each is the environment variable of the same name with `TESSERA_` before it.

    In order of precedence: arguments, environment, `tessera.toml` in the data folder, defaults. The three addresses
    have no default: without them nothing can run, and `tessera up` fills them in from the engines it starts.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, validate_default=True
    )

    # Addresses hold passwords: they are kept out of logs and error pages.
    postgres_dsn: _PostgresDsn = Field(repr=False, description="postgresql://user:password@host:port/database")
    redis_url: _RedisUrl = Field(repr=False, description="redis://host:port/0")
    clickhouse_url: _HttpUrl = Field(repr=False, description="http://user:password@host:port/database")

    data_dir: Path = Field(DEFAULT_DATA_DIR, description="Where embedded engines keep their data; holds tessera.toml.")
    shard: _Shard = Field(0, description="Which event store this is, when there are several.")
    shard_dsns: dict[_Shard, _PostgresDsn] = Field({}, repr=False, description='The other stores: {"1": DSN}')
    default_shard: _Shard | None = Field(None, description="Where tenants live that nobody placed; else the lowest.")
    tenant_shards: dict[str, _Shard] = Field({}, description='Where tenants live: {"acme": 1, "acme/outlet": 0}')
    spread_tenants: dict[str, dict[_Shard, str]] = Field(
        {}, description='Tenants over several shards, by slot: {"giant": {"0": "0-511", "1": "512-1023"}}'
    )

    http_host: str = Field("127.0.0.1", min_length=1)
    http_port: _Port = 8080
    http_workers: int = Field(1, ge=1, le=64, description="API processes that share the port, with an engine each.")
    http_body_bytes_max: int = Field(1_048_576, ge=1_024, description="A larger request body is refused with 413.")

    batch_commands_max: int = Field(500, ge=1, le=10_000, description="Commands decided and appended together.")
    queue_commands_max: int = Field(20_000, ge=1, description="Commands waiting; beyond that callers are told to wait.")
    claim_hint_ms: int = Field(
        0, ge=0, le=10_000, description="How long a refused claim lets like ones be told so by a hint; 0: never."
    )
    lock_ttl_seconds: int = Field(900, ge=1, description="How long a coupon stays locked for an unpaid order.")
    lease_term_seconds: int = Field(900, ge=30, le=86_400, description="How long a shard may spend leased budget.")
    order_wait_ms: int = Field(2_000, ge=0, le=60_000, description="How long placing an order waits for its locks.")
    min_position_wait_ms: int = Field(2_000, ge=0, le=60_000, description="How long a read waits for `min_position`.")
    command_log_days: int = Field(90, ge=1, description="How long answers to commands are kept.")

    follower_batch_max: int = Field(2_000, ge=1, le=5_000, description="Events folded before one write.")
    follower_poll_ms: int = Field(25, ge=1, le=10_000, description="How often a follower looks when nothing wakes it.")
    follower_metrics_port: _Port | None = Field(None, description="Where a worker serves /metrics; unset: nowhere.")

    kafka_bootstrap: _Servers | None = Field(None, description="host:port,host:port; unset: no Kafka.")
    kafka_prefix: str = Field(
        "", pattern=r"^[A-Za-z0-9._-]{0,100}$", description="Before the name of every topic and consumer group."
    )
    kafka_partitions: int = Field(PARTITIONS, ge=1, le=1_000, description="Of each topic; fixed once the topics exist.")
    kafka_replication: int = Field(1, ge=1, le=16, description="Copies of each partition; as many brokers at least.")
    kafka_session_seconds: float = Field(
        6.0, ge=1, le=300, description="A member that is silent for so long loses its partitions to the others."
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    kafka_sasl_username: str | None = None
    kafka_sasl_password: str | None = Field(None, repr=False)
    kafka_ssl_cafile: Path | None = Field(None, description="Who signed the brokers' certificates; unset: as usual.")
    kafka_default_realm: _RealmName | None = Field(
        None, description="tenant/app of messages without the headers tenant and app; unset: they are refused."
    )
    kafka_routes: dict[str, _TakenIn] = Field(
        {}, description='Other topics to take in, and as which: {"promotion.event.join": "coupon-command-topic"}'
    )
    follower_feed: Literal["store", "kafka"] = Field("store", description="Whence followers read: log or topics.")

    otlp_endpoint: _HttpUrl | None = Field(None, description="Where traces go; unset: nowhere.")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The file lives in the data folder, so that folder is looked up before everything else."""
        given = init_settings().get("data_dir") or os.environ.get(f"{ENV_PREFIX}DATA_DIR") or DEFAULT_DATA_DIR
        toml = TomlConfigSettingsSource(settings_cls, toml_file=Path(given) / FILE_NAME)
        return init_settings, env_settings, toml

    @classmethod
    def load(cls, **given: Any) -> Self:
        """Read and validate; arguments win over everything else.

        Errors: SettingsError, one line for each setting that is missing or wrong.
        """
        try:
            return cls(**given)
        except ValidationError as error:
            raise SettingsError(_explain(error)) from None
        except UnreadableSetting:
            raise SettingsError("\n".join(_no_json(os.environ)) or "a setting cannot be read") from None
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"{FILE_NAME} in the data folder is no TOML: {error}") from None

    @model_validator(mode="after")
    def _shards_can_be_meant(self) -> Self:
        Placement.of(  # Checked at start; made when it is asked for.
            self.stores, default=self.default_shard, tenants=self.tenant_shards, spread=self.spread_tenants
        )
        return self

    @model_validator(mode="after")
    def _kafka_can_be_meant(self) -> Self:
        if self.follower_feed == "kafka" and self.kafka_bootstrap is None:
            raise ValueError("followers cannot read Kafka without one: set TESSERA_KAFKA_BOOTSTRAP")
        if self.kafka_security_protocol.startswith("SASL") and not (
            self.kafka_sasl_username and self.kafka_sasl_password
        ):
            raise ValueError(
                f"{self.kafka_security_protocol} needs TESSERA_KAFKA_SASL_USERNAME and TESSERA_KAFKA_SASL_PASSWORD"
            )
        return self

    @property
    def stores(self) -> dict[int, str]:
        """Every event store: shard -> DSN, in order."""
        return dict(sorted({**self.shard_dsns, self.shard: self.postgres_dsn}.items()))

    @property
    def placement(self) -> Placement:
        """Which shard holds what."""
        return Placement.of(
            self.stores, default=self.default_shard, tenants=self.tenant_shards, spread=self.spread_tenants
        )

    @property
    def is_placed(self) -> bool:
        """Whether tenants were told apart by shard: then a process brings each command where it belongs."""
        return len(self.stores) > 1 and bool(
            self.tenant_shards or self.spread_tenants or self.default_shard is not None
        )

    @property
    def known_stores(self) -> dict[int, str]:
        """The stores that a process works with: all of them where tenants are placed, else its own."""
        return self.stores if self.is_placed else {self.shard: self.postgres_dsn}

    @property
    def facts_url(self) -> str:
        """Where this shard's facts are: shard 0's in the database that was named, shard 1's in ``<database>_1``."""
        return _beside(self.clickhouse_url, str(self.shard)) if self.shard else self.clickhouse_url

    @property
    def all_facts_url(self) -> str:
        """Where all facts are read as one: ``<database>_all``; where nobody is placed, this shard's are all."""
        return _beside(self.clickhouse_url, "all") if self.is_placed else self.facts_url

    def at_shard(self, shard: int) -> Self:
        """The same settings as seen from one of the stores. Addresses stay; :attr:`facts_url` is that shard's."""
        stores = self.stores
        return self.model_copy(update={"shard": shard, "postgres_dsn": stores[shard], "shard_dsns": stores})

    def to_env(self) -> dict[str, str]:
        """These settings as environment variables, for child processes."""
        values = self.model_dump(mode="json", exclude_none=True)
        values["data_dir"] = str(self.data_dir.absolute())  # A child may run in another folder.
        return {variable(name): _as_text(value) for name, value in values.items()}


def _beside(clickhouse_url: str, name: str) -> str:
    """Another database of the same ClickHouse, named after the one that a URL names."""
    url = urlsplit(clickhouse_url)
    return urlunsplit(url._replace(path=f"/{url.path.strip('/') or 'default'}_{name}"))


def _as_text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _no_json(environment: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with the variables that hold JSON. Without their values: addresses hold passwords."""
    given = {name.upper(): value for name, value in environment.items()}
    for field, known in Settings.model_fields.items():
        text = given.get(variable(field))
        if known.default != {} or not text:  # Only tables are JSON.
            continue
        try:
            json.loads(text)
        except ValueError as error:
            yield f"{variable(field)} is wrong: it is no JSON ({error}). {known.description}"


def variable(field: str) -> str:
    """The environment variable that sets a field."""
    return f"{ENV_PREFIX}{field.upper()}"


def _explain(error: ValidationError) -> str:
    return "\n".join(_explain_one(each) for each in error.errors(include_url=False, include_input=False))


def _explain_one(error: ErrorDetails) -> str:
    if not error["loc"]:  # Of several settings together.
        return f"these settings cannot be meant: {error['msg'].removeprefix('Value error, ')}"
    name = str(error["loc"][0])
    known = Settings.model_fields.get(name)
    if known is None:
        return f"{name} in {FILE_NAME} is no setting; remove it"
    if error["type"] != "missing":
        where = "".join(f", at {json.dumps(key)}" for key in error["loc"][1:] if key != _KEY)
        example = f". {known.description}" if known.default == {} else ""
        return f"{variable(name)} is wrong{where}: {error['msg'].removeprefix('Value error, ')}{example}"
    return (
        f"{variable(name)} is not set. Set it to the address of a server ({known.description}), "
        "or run `tessera up`, which brings its own servers"
    )
