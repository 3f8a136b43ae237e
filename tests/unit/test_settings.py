"""Settings: what is missing or wrong is named, and what one process was told its children hear too."""

from pathlib import Path

import pytest

from infra.settings import ENV_PREFIX, Settings, SettingsError

ADDRESSES = {
    "postgres_dsn": "postgresql://tessera:secret@127.0.0.1:5432/tessera",
    "redis_url": "redis://127.0.0.1:6379/0",
    "clickhouse_url": "http://default:secret@127.0.0.1:8123/tessera",
}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(f"{ENV_PREFIX}{field.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


def test_the_three_addresses_are_all_that_must_be_given() -> None:
    settings = Settings.load(**ADDRESSES)
    assert (settings.http_host, settings.http_port, settings.shard) == ("127.0.0.1", 8080, 0)
    assert (settings.batch_commands_max, settings.queue_commands_max) == (500, 20_000)
    assert (settings.lock_ttl_seconds, settings.command_log_days) == (900, 90)
    assert (settings.order_wait_ms, settings.min_position_wait_ms) == (2_000, 2_000)
    assert (settings.follower_batch_max, settings.follower_poll_ms) == (2_000, 25)
    assert settings.data_dir == Path(".tessera")
    assert settings.otlp_endpoint is None
    assert settings.follower_metrics_port is None
    assert settings.kafka_session_seconds == 6.0
    assert (settings.kafka_bootstrap, settings.kafka_prefix, settings.kafka_partitions) == (None, "", 4)
    assert settings.follower_feed == "store"


def test_a_missing_address_is_named_with_what_to_do_about_it() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load(redis_url=ADDRESSES["redis_url"])
    lines = str(caught.value).splitlines()
    assert [line.split(" is not set")[0] for line in lines] == ["TESSERA_POSTGRES_DSN", "TESSERA_CLICKHOUSE_URL"]
    assert "postgresql://user:password@host:port/database" in lines[0]
    assert all("tessera up" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TESSERA_POSTGRES_DSN", "mysql://127.0.0.1/x"),
        ("TESSERA_REDIS_URL", "127.0.0.1:6379"),
        ("TESSERA_CLICKHOUSE_URL", "http://"),
        ("TESSERA_HTTP_PORT", "70000"),
        ("TESSERA_BATCH_COMMANDS_MAX", "0"),
        ("TESSERA_LOG_FORMAT", "xml"),
        ("TESSERA_OTLP_ENDPOINT", "collector"),
        ("TESSERA_KAFKA_BOOTSTRAP", "kafka://broker"),
        ("TESSERA_KAFKA_BOOTSTRAP", "broker:9092,other"),
        ("TESSERA_KAFKA_PREFIX", "not allowed/"),
    ],
)
def test_a_wrong_value_is_named_by_its_variable(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for field, address in ADDRESSES.items():
        monkeypatch.setenv(f"{ENV_PREFIX}{field.upper()}", address)
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{name} is wrong: "):
        Settings.load()


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("TESSERA_SHARD_DSNS", "nonsense:secret", " is wrong: it is no JSON .*\\. The other stores: {"),
        ("TESSERA_SPREAD_TENANTS", "{'giant'", " is wrong: it is no JSON .*\\. Tenants over several shards"),
        ("TESSERA_SHARD_DSNS", "[1]", " is wrong: .*dictionary.* The other stores: {"),
        (
            "TESSERA_SHARD_DSNS",
            '{"x": "postgresql://a:secret@h/b"}',
            ' is wrong, at "x": .*integer.* The other stores: {',
        ),
        ("TESSERA_SHARD_DSNS", '{"1": "mysql://a:secret@h/b"}', ' is wrong, at "1": must be a URL'),
        ("TESSERA_SPREAD_TENANTS", '{"giant": {"x": "0-511"}}', ' is wrong, at "giant", at "x": '),
    ],
)
def test_a_wrong_table_is_named_by_its_variable_and_key_with_an_example(
    name: str, value: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{name}{what}") as caught:
        Settings.load(**ADDRESSES)
    assert len(str(caught.value).splitlines()) == 1
    assert "secret" not in str(caught.value)


def test_a_child_process_reads_what_its_parent_was_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = Settings.load(
        **ADDRESSES, data_dir=tmp_path / "data", http_port=9000, otlp_endpoint="http://127.0.0.1:4318"
    )
    for name, value in given.to_env().items():
        monkeypatch.setenv(name, value)
    assert Settings.load() == given


def test_a_child_in_another_folder_finds_the_same_data(tmp_path: Path) -> None:
    assert Settings.load(**ADDRESSES, data_dir="data").to_env()["TESSERA_DATA_DIR"] == str(tmp_path / "data")


def test_the_file_in_the_data_folder_comes_after_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "tessera.toml").write_text("http_port = 9001\nlock_ttl_seconds = 60\n")
    monkeypatch.setenv("TESSERA_DATA_DIR", str(data_dir))
    monkeypatch.setenv("TESSERA_LOCK_TTL_SECONDS", "30")
    settings = Settings.load(**ADDRESSES)
    assert (settings.http_port, settings.lock_ttl_seconds) == (9001, 30)


def test_a_misspelt_setting_in_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tessera.toml").write_text("lock_ttl_second = 60\n")
    with pytest.raises(SettingsError, match=r"^lock_ttl_second in tessera\.toml is no setting"):
        Settings.load(**ADDRESSES, data_dir=tmp_path)


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tessera.toml").write_text("http_port: 1\n")
    with pytest.raises(SettingsError, match=r"^tessera\.toml in the data folder is no TOML"):
        Settings.load(**ADDRESSES, data_dir=tmp_path)


def test_passwords_do_not_show_when_settings_are_printed() -> None:
    assert "secret" not in repr(Settings.load(**ADDRESSES))


def test_a_wrong_address_is_refused_without_showing_its_password() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load(**{**ADDRESSES, "postgres_dsn": "mysql://tessera:secret@127.0.0.1/x"})
    assert "secret" not in str(caught.value)


PLACED = {"shard_dsns": {1: ADDRESSES["postgres_dsn"] + "_1"}, "tenant_shards": {"acme": 1}}


def test_each_shard_has_a_database_of_facts_and_readers_of_placed_tenants_have_one_of_all() -> None:
    settings = Settings.load(**ADDRESSES, **PLACED)
    assert settings.facts_url == ADDRESSES["clickhouse_url"]
    assert settings.at_shard(1).facts_url == ADDRESSES["clickhouse_url"] + "_1"
    for shard in (0, 1):
        seen = settings.at_shard(shard)
        assert seen.all_facts_url == ADDRESSES["clickhouse_url"] + "_all"
        assert seen.at_shard(0).facts_url == settings.facts_url
    alone = Settings.load(**ADDRESSES)
    assert alone.all_facts_url == alone.facts_url == ADDRESSES["clickhouse_url"]


def test_a_database_that_no_address_names_is_the_default_one() -> None:
    settings = Settings.load(**{**ADDRESSES, "clickhouse_url": "http://127.0.0.1:8123"}, **PLACED)
    assert settings.at_shard(1).facts_url == "http://127.0.0.1:8123/default_1"


def test_a_child_of_a_shard_writes_its_facts_where_that_shard_does(monkeypatch: pytest.MonkeyPatch) -> None:
    at_shard = Settings.load(**ADDRESSES, **PLACED).at_shard(1)
    for name, value in at_shard.to_env().items():
        monkeypatch.setenv(name, value)
    assert (Settings.load().facts_url, Settings.load().all_facts_url) == (at_shard.facts_url, at_shard.all_facts_url)


def test_followers_cannot_be_told_to_read_a_kafka_that_is_nowhere() -> None:
    with pytest.raises(SettingsError, match="set TESSERA_KAFKA_BOOTSTRAP"):
        Settings.load(**ADDRESSES, follower_feed="kafka")


def test_a_kafka_that_asks_who_we_are_needs_a_name_and_a_password() -> None:
    with pytest.raises(SettingsError, match="SASL_SSL needs TESSERA_KAFKA_SASL_USERNAME"):
        Settings.load(**ADDRESSES, kafka_bootstrap="broker:9093", kafka_security_protocol="SASL_SSL")
