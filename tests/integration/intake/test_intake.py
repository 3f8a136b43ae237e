"""Commands and facts over a real broker: answered as over HTTP, whatever lies beside them; refused ones are kept."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import orjson
import pytest
from aiokafka import ConsumerRecord
from aiokafka.consumer.fetcher import PartitionRecords
from structlog.testing import capture_logs
from typer.testing import CliRunner

from contracts.topics import COMMANDS, DEAD_LETTERS, ORDER_FACTS, PAYMENT_FACTS, REPLIES
from infra.cli import app
from infra.cli.errors import ExitCode
from infra.intake.dead_letters import Origin, letters_in, original
from infra.kafka.partition import partition_of_key
from infra.settings import Settings
from infra.telemetry.metrics import Metrics
from tests.builders import terms
from tests.faults.shop import ALWAYS
from tests.integration.http.conftest import api
from tests.integration.intake.world import group_of, kafka_settings, taking_in
from tests.kafka_talk import Sent, Talk, value_of
from tests.unit.intake.test_intake import comparable
from tests.unit.intake.world import command

KAFKA_DOC = Path(__file__).parents[3] / "docs" / "kafka.md"
TERMS = terms(stock=2, **ALWAYS).model_dump(mode="json", exclude_none=True)
# One key: one partition, so that they are decided in this order.
SHOP = [
    command("k1", "create_template", template_id="t1", terms=TERMS),
    command("k2", "activate_template", template_id="t1"),
    *(command(f"c{number}", "claim_coupon", template_id="t1", user_id=f"u{number}") for number in range(4)),
    command("k4", "claim_coupon", template_id="nothing", user_id="ann"),
    command("c1", "claim_coupon", template_id="t1", user_id="u1"),
    command("c1", "claim_coupon", template_id="t1", user_id="another"),
    command("k5", "place_order", order_id="o1", currency="GBP", total_minor=500, user_id="u1"),
    command("k6", "report_payment", payment_id="p1", order_id="o1", status="succeeded", amount_minor=5, currency="GBP"),
    command("k7", "cancel_order", order_id="nobody-knows"),
]


@pytest.fixture
def settings(postgres_dsn: str, kafka_bootstrap: str, kafka_prefix: str) -> Settings:
    """A store and topics of one's own."""
    return kafka_settings(postgres_dsn, kafka_bootstrap, kafka_prefix)


def sent(bodies: Sequence[Any], key: bytes = b"same") -> list[Sent]:
    """All with one key."""
    return [Sent(body, key) for body in bodies]


def in_one_order(answer: dict[str, Any]) -> bytes:
    """What does not heed the order of members: an answer of the command log has another."""
    return orjson.dumps(answer, option=orjson.OPT_SORT_KEYS)


def test_a_list_of_commands_is_answered_as_over_http(settings: Settings) -> None:
    talk = Talk(settings)
    talk.send(COMMANDS, sent(SHOP))
    with taking_in(settings):
        replies = talk.read(REPLIES, lambda found: len(found) == len(SHOP))
    with api(settings.postgres_dsn) as server:
        response = httpx.post(f"{server.url}/v1/commands", json={"commands": SHOP}, headers=server.headers)
    told, expected = [value_of(each) for each in replies], response.json()["answers"]
    assert [comparable(answer) for answer in told if answer["command_id"] == "c1"] != []
    for answer in (*told, *expected):
        if answer.get("code") == "command_id_reused":
            del answer["position"]  # Of a refusal that is stored nowhere: where the log stood.
    assert sorted(map(comparable, told), key=in_one_order) == sorted(map(comparable, expected), key=in_one_order)


def test_what_cannot_be_taken_in_is_kept_with_its_reason_and_hinders_nothing(settings: Settings) -> None:
    talk = Talk(settings)
    bad = [b"\xff", b"{", b"[]", {"type": "fly"}, command("x", "hold_for_order", order_id="o"), None]
    mixed = [each for pair in zip(SHOP[:6], bad, strict=True) for each in pair]
    talk.send(COMMANDS, [*sent(mixed), Sent(SHOP[6], b"same", (("tenant", b"\xff"),))])
    with taking_in(settings) as metrics:
        replies = talk.read(REPLIES, lambda found: len(found) == 6)
        letters = letters_in(talk.read(DEAD_LETTERS[0], lambda found: len(found) == 7))
        counted = metrics.exposition().decode()
    assert [value_of(each)["command_id"] for each in replies if each.key] != []
    assert sorted((each.origin.offset, each.reason) for each in letters) == [
        (1, "malformed_json"),
        (3, "malformed_json"),
        (5, "wrong_type"),
        (7, "missing"),
        (9, "scope_missing"),
        (11, "missing"),
        (12, "wrong_format"),
    ]
    by_offset = {each.origin.offset: each for each in letters}
    assert by_offset[1].value == b"\xff"
    assert by_offset[11].value is None
    assert by_offset[12].headers == (("tenant", b"\xff"),)
    assert {each.origin.topic for each in letters} == {talk.name(COMMANDS)}
    assert 'tessera_intake_dead_letters_total{reason="missing",topic="coupon-command-topic"} 2.0' in counted
    assert talk.committed(group_of(settings), COMMANDS) == 13


def test_facts_come_by_their_upstream_s_names_and_are_answered(settings: Settings) -> None:
    talk = Talk(settings)
    placed = {"order_id": 7, "customer_id": 8, "provider_id": 9, "total_amount": "12.50"}
    talk.send(ORDER_FACTS, [Sent({"event": "order.created", "id": 1, "data": placed}, b"7")])
    paid = {"payment_id": 5, "order_id": 7, "amount": "12.50"}
    in_headers = (("tenant", b"acme"), ("app", b"shop"), ("type", b"payment.completed"), ("event-id", b"2"))
    with taking_in(settings):
        talk.read(REPLIES, lambda found: len(found) == 1)
        talk.send(PAYMENT_FACTS, [Sent(paid, b"7", in_headers), Sent(paid, b"7", in_headers)])
        replies = talk.read(REPLIES, lambda found: len(found) == 3)
        talk.send(PAYMENT_FACTS, [Sent(command("c", "claim_coupon", template_id="t", user_id="u"), b"7")])
        (letter,) = letters_in(talk.read(DEAD_LETTERS[2], lambda found: len(found) == 1))
    told = [value_of(each) for each in replies]
    assert {each["status"] for each in told} == {"accepted"}
    assert sorted(each["command_id"] for each in told) == [
        "upstream:order.created:1",
        "upstream:payment.completed:2",
        "upstream:payment.completed:2",
    ]
    assert letter.reason == "scope_missing"


def test_other_topics_are_taken_in_where_they_are_routed(settings: Settings) -> None:
    talk = Talk(settings)
    # Any topic that is there: upstream's own names are theirs to make.
    routed = settings.model_copy(update={"kafka_routes": {"command-reply-topic": "coupon-command-topic"}})
    with taking_in(routed):
        talk.send(REPLIES, sent(SHOP[:1]))
        replies = talk.read(REPLIES, lambda found: any(_is_reply(each) for each in found))
    assert [value_of(each)["command_id"] for each in replies if _is_reply(each)][:1] == ["k1"]


def _is_reply(record: ConsumerRecord[Any, Any]) -> bool:
    return "code" in dict(record.headers)


def test_it_begins_where_it_stopped(settings: Settings) -> None:
    talk = Talk(settings)
    for number in (0, 3):
        talk.send(COMMANDS, sent(SHOP[number : number + 3]))
        with taking_in(settings):
            talk.read(REPLIES, lambda found, wanted=number + 3: len(found) == wanted)  # type: ignore[misc]
    assert talk.committed(group_of(settings), COMMANDS) == 6
    assert len(talk.all_of(REPLIES)) == 6


@dataclass
class Apart:
    """How records are taken apart; once ``broken``, those of one value fail as if their header were no UTF-8."""

    broken: bool = False


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> Apart:
    """How this process takes records apart."""
    apart, sound = Apart(), PartitionRecords._consumer_record

    def taken_apart(self: Any, partition: Any, raw: Any) -> Any:
        if apart.broken and raw.value == b"unreadable":
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
        return sound(self, partition, raw)

    monkeypatch.setattr(PartitionRecords, "_consumer_record", taken_apart)
    monkeypatch.setattr("infra.intake.consumer.SET_ASIDE_SECONDS", 0.5)
    return apart


def test_a_record_that_cannot_be_read_costs_no_other_its_answer(settings: Settings, apart: Apart) -> None:
    talk = Talk(settings)
    budgets = [command(f"b{n}", "create_budget", budget_id=f"b{n}", currency="GBP", limit_minor=1) for n in range(60)]
    keys = [bytes([97 + n % 20]) for n in range(60)]  # Both partitions.
    sound_ones = [Sent(budget, key) for budget, key in zip(budgets, keys, strict=True)]
    at = place_of(apart, talk, [*sound_ones, Sent(b"unreadable", b"a")])
    with capture_logs() as said, taking_in(settings):
        talk.read(REPLIES, lambda found: len({record.key for record in found}) == 60, seconds=20)
        until = monotonic() + 20
        while not any(entry["event"] == "partition_cannot_be_read" for entry in said) and monotonic() < until:
            sleep(0.05)
        apart.broken = False  # What was missing is installed.
        (letter,) = letters_in(talk.read(DEAD_LETTERS[0], lambda found: len(found) == 1, seconds=20))
    assert letter.value == b"unreadable"
    assert talk.committed(group_of(settings), COMMANDS) == 61
    told = [entry for entry in said if entry["event"] == "partition_cannot_be_read"]
    assert [(entry["partition"], entry["offset"]) for entry in told][:1] == [(at.partition, at.offset)]


def place_of(apart: Apart, talk: Talk, messages: list[Sent]) -> Origin:
    """Sends messages, the last of which cannot be read from now on; where that one is."""
    talk.send(COMMANDS, messages)
    (at,) = [Origin.of(record) for record in talk.all_of(COMMANDS) if record.value == messages[-1].body]
    apart.broken = True
    return at


def skip(settings: Settings, name: str, folder: Path, *, code: int = ExitCode.OK, more: tuple[str, ...] = ()) -> Any:
    """What ``tessera intake skip`` tells."""
    command_line = [
        "intake",
        "skip",
        name,
        "--reason",
        "sent again",
        "--yes",
        "--json",
        "--data-dir",
        str(folder),
        *more,
    ]
    given = CliRunner().invoke(app, command_line, env=settings.to_env())
    assert given.exit_code == code, given.output + given.stderr
    return json.loads(given.stdout if code == ExitCode.OK else given.stderr[given.stderr.index('{"error"') :])


def test_an_operator_has_it_stepped_over_and_its_place_is_kept_in_a_letter(
    settings: Settings, apart: Apart, tmp_path: Path
) -> None:
    talk = Talk(settings)
    budgets = [command(f"b{n}", "create_budget", budget_id=f"b{n}", currency="GBP", limit_minor=1) for n in range(4)]
    at = place_of(apart, talk, [Sent(budgets[0], b"a"), Sent(budgets[1], b"a"), Sent(b"unreadable", b"a")])
    talk.send(COMMANDS, [Sent(budgets[2], b"a"), Sent(budgets[3], b"a")])  # Behind it.
    with taking_in(settings) as metrics:
        talk.read(REPLIES, lambda found: len(found) == 2, seconds=20)
        held_by(metrics, at, 1.0)
        too_far = skip(settings, str(at), tmp_path, code=ExitCode.ERROR, more=("--upto", str(at.offset + 3)))
        assert "has no record" in too_far["error"]["what"]
        first, again = skip(settings, str(at), tmp_path), skip(settings, str(at), tmp_path)
        assert first == again
        talk.read(REPLIES, lambda found: len(found) == 4, seconds=30)
        held_by(metrics, at, None)
        done = skip(settings, str(at), tmp_path, code=ExitCode.ERROR)
        assert "is finished" in done["error"]["what"]
    (letter,) = letters_in(talk.all_of(DEAD_LETTERS[0]))
    assert (letter.origin, letter.reason, letter.value) == (at, "unreadable", None)
    assert letter.detail.endswith(": sent again")
    assert letter.detail.startswith("UnicodeDecodeError")
    assert talk.committed(group_of(settings), COMMANDS) == 5
    with pytest.raises(ValueError, match="only its place is kept"):
        original(letter)


def test_what_can_be_read_by_then_is_taken_in_although_somebody_gave_it_up(
    settings: Settings, apart: Apart, tmp_path: Path
) -> None:
    at = place_of(apart, talk := Talk(settings), [Sent(b"unreadable", b"a")])
    skip(settings, str(at), tmp_path)
    apart.broken = False
    with taking_in(settings):
        (letter,) = letters_in(talk.read(DEAD_LETTERS[0], lambda found: len(found) == 1, seconds=20))
    assert (letter.value, letter.reason) == (b"unreadable", "malformed_json")


def test_a_place_that_cannot_be_skipped_is_refused_with_what_there_is(settings: Settings, tmp_path: Path) -> None:
    prefix, topic = settings.kafka_prefix, f"{settings.kafka_prefix}{COMMANDS.name}"
    routed = settings.model_copy(update={"kafka_routes": {"promotion.event.join": COMMANDS.name}})
    for given, name, what in (
        (settings, f"{topic}:7:0", f"{topic} has no partition 7, only 0 to 1"),
        (settings, f"{topic}:0:0", f"{topic}:0 has no record 0 yet: it is empty"),
        (settings, f"{COMMANDS.name}-2:0:0", f"{COMMANDS.name}-2 is not taken in; these are: {topic}, "),
        (routed, f"{prefix}promotion.event.join:0:0", f"has no topic {prefix}promotion.event.join"),
    ):
        told = skip(given, name, tmp_path, code=ExitCode.ERROR)["error"]
        assert what in told["what"], told
        assert told["next_step"]


def test_a_skip_says_why_and_is_told_what_comes_next(settings: Settings, tmp_path: Path) -> None:
    Talk(settings).send(COMMANDS, [Sent(b"{}", b"a")])
    place = f"{settings.kafka_prefix}{COMMANDS.name}:{partition_of_key(b'a', 2)}:0"
    words = ["intake", "skip", place, "--yes", "--reason"]
    silent = CliRunner().invoke(app, [*words, " ", "--data-dir", str(tmp_path)], env=settings.to_env())
    assert (silent.exit_code, "--reason says nothing" in silent.stderr) == (ExitCode.USAGE, True)
    done = CliRunner().invoke(app, [*words, "why not", "--data-dir", str(tmp_path)], env=settings.to_env())
    assert f"tessera dead-letters show intake {place}" in done.stdout
    assert "Have its sender send it again" in done.stdout


def test_the_document_s_example_is_answered_and_again_when_it_runs_again(settings: Settings, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", KAFKA_DOC.read_text(), re.DOTALL)
    example = tmp_path / "example.py"
    example.write_text(re.sub(r'"([a-z-]+-topic)"', rf'"{settings.kafka_prefix}\1"', code))
    words = [sys.executable, str(example), str(settings.kafka_bootstrap)]
    with taking_in(settings):
        for _ in range(2):
            done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, done.stderr
            told = [json.loads(line) for line in done.stdout.splitlines()]
            assert {each["command_id"]: each["status"] for each in told} == {
                "example-1": "accepted",
                "upstream:order.created:example-2": "accepted",
            }


def held_by(metrics: Metrics, at: Origin, value: float | None) -> None:
    """Waits until the metric says so."""
    labels, until = {"topic": at.topic, "partition": str(at.partition)}, monotonic() + 20
    while metrics.registry.get_sample_value("tessera_intake_partitions_held", labels) != value and monotonic() < until:
        sleep(0.05)
    assert metrics.registry.get_sample_value("tessera_intake_partitions_held", labels) == value
