"""What a connection to Kafka is made from."""

import ssl

import pytest
from aiokafka import codec

from infra.intake.subscriber import HAND_OVER_SECONDS
from infra.kafka.client import NoKafka, connection, membership
from infra.kafka.consumer import HANDOVER_SECONDS
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
    for given, silent_ms, speaks_ms in (({}, 6_000, 1_200), ({"kafka_session_seconds": 2.5}, 2_500, 500)):
        told = membership(Settings.load(**ADDRESSES, **given))
        assert (told["session_timeout_ms"], told["heartbeat_interval_ms"]) == (silent_ms, speaks_ms)


def test_a_member_has_longer_to_hand_over_than_whoever_hands_over_waits() -> None:
    patience_ms = membership(Settings.load(**ADDRESSES, kafka_session_seconds=1))["rebalance_timeout_ms"]
    assert patience_ms > 1_000 * max(HANDOVER_SECONDS, HAND_OVER_SECONDS)


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
