"""What a connection to Kafka is made from."""

import ssl

import pytest
from aiokafka import codec

from infra.kafka.client import NoKafka, connection, membership
from infra.settings import Settings

ADDRESSES = {
    "postgres_dsn": "postgresql://tessera:secret@127.0.0.1:5432/tessera",
    "redis_url": "redis://127.0.0.1:6379/0",
    "clickhouse_url": "http://default:secret@127.0.0.1:8123/tessera",
}


def test_without_an_address_whoever_needs_kafka_is_told_what_to_do() -> None:
    with pytest.raises(NoKafka, match=r"TESSERA_KAFKA_BOOTSTRAP is not set.*tessera up --kafka"):
        connection(Settings.load(**ADDRESSES))


def test_a_plain_broker_needs_its_addresses_alone() -> None:
    options = connection(Settings.load(**ADDRESSES, kafka_bootstrap="one:9092, two:9092"))
    assert options["bootstrap_servers"] == ["one:9092", "two:9092"]
    assert options["security_protocol"] == "PLAINTEXT"
    assert not {"ssl_context", "sasl_plain_password"} & options.keys()


def test_a_member_may_be_silent_as_long_as_is_set_and_speaks_several_times_meanwhile() -> None:
    assert membership(Settings.load(**ADDRESSES)) == {"session_timeout_ms": 6_000, "heartbeat_interval_ms": 1_200}
    shorter = membership(Settings.load(**ADDRESSES, kafka_session_seconds=2.5))
    assert shorter == {"session_timeout_ms": 2_500, "heartbeat_interval_ms": 500}


def test_credentials_go_over_tls_that_checks_the_brokers_name() -> None:
    settings = Settings.load(
        **ADDRESSES,
        kafka_bootstrap="one:9092",
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_mechanism="SCRAM-SHA-512",
        kafka_sasl_username="tessera",
        kafka_sasl_password="hush",
    )
    options = connection(settings)
    assert (options["sasl_mechanism"], options["sasl_plain_username"]) == ("SCRAM-SHA-512", "tessera")
    assert options["sasl_plain_password"] == "hush"
    assert options["ssl_context"].verify_mode == ssl.CERT_REQUIRED
    assert options["ssl_context"].check_hostname
    assert "hush" not in repr(settings)


@pytest.mark.parametrize("name", ["gzip", "snappy", "lz4", "zstd"])
def test_whatever_an_upstream_compresses_by_can_be_read(name: str) -> None:
    assert getattr(codec, f"has_{name}")()
