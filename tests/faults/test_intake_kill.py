"""Whatever is killed while commands come in by Kafka: one effect each, the same answer for all, no record lost."""

import itertools
import os
import signal
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psycopg
import pytest
from aiokafka import ConsumerRecord
from psycopg import sql

from contracts.identity import Realm
from contracts.position import Position
from contracts.topics import ALL_TOPICS, COMMANDS, DEAD_LETTERS, EVENT_TOPICS, REPLIES
from infra.embedded.kafka import EmbeddedKafka
from infra.intake.dead_letters import Letter, letters_in
from infra.kafka.messages import Published, decode
from infra.processes import Child, ChildSpec, spawn
from infra.settings import Settings
from infra.verify import log_rows
from tests.audit import Acknowledged, audit, violations
from tests.engines import running_kafka
from tests.integration.intake.world import group_of, intake_process, kafka_settings, taking_in
from tests.kafka_talk import Sent, Talk, retried, value_of
from tests.unit.intake.world import command

pytestmark = pytest.mark.faults

LONG = os.environ.get("TESSERA_TEST_EFFORT") == "long"
COMMANDS_COUNT, MALFORMED_COUNT, ROUNDS = (10_000, 100, 4) if LONG else (600, 20, 1)
SECONDS = 600.0 if LONG else 150.0
BLOCK = 20

Records = Sequence[ConsumerRecord[Any, Any]]


def claims(count: int) -> list[dict[str, Any]]:
    """Claims by as many users; every fifth of a template that has not enough for all."""
    templates = ["hot", "wide", "wide", "wide", "wide"]
    return [
        command(f"c{number}", "claim_coupon", template_id=templates[number % 5], user_id=f"u{number}")
        for number in range(count)
    ]


def malformed(count: int) -> list[Any]:
    """As many records that no command can be made of."""
    kinds = [
        b"\xff\xfe",
        b"{",
        b"[]",
        {"type": "fly", "command_id": "x"},
        command("x", "claim_coupon", template_id="wide"),
        command("x", "hold_for_order", order_id="o"),
        command("", "claim_coupon", template_id="wide", user_id="u"),
    ]
    return list(itertools.islice(itertools.cycle(kinds), count))


def messages(commands: Sequence[Mapping[str, Any]], bad: Sequence[Any]) -> list[Sent]:
    """Every command twice, apart, with the bad ones among them; keys spread them over partitions."""
    blocks = [commands[start : start + BLOCK] for start in range(0, len(commands), BLOCK)]
    good = [Sent(each, str(each["command_id"]).encode()) for block in blocks for each in (*block, *block)]
    every = len(good) // len(bad)
    for number, each in enumerate(bad):
        good.insert(number * (every + 1), Sent(each, b"bad%d" % number))
    return good


def told_in(replies: Records) -> dict[str, set[bytes]]:
    """By command the different answers that were told."""
    told: defaultdict[str, set[bytes]] = defaultdict(set)
    for each in replies:
        told[each.key.decode()].add(each.value)
    return told


def acknowledged(replies: Records) -> Iterator[Acknowledged]:
    """Every reply as the audit wants it."""
    for body in map(value_of, replies):
        accepted = body["status"] == "accepted"
        yield Acknowledged(
            Realm(body["tenant"], body["app"]),
            body["command_id"],
            "accepted" if accepted else "refused",
            "ok" if accepted else body["code"],
            body["data"],
            Position.parse(body["position"]).offset,
        )


def logged(dsn: str) -> int:
    """How many commands have an answer, those of the opening included."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(sql.SQL("SELECT count(*) FROM command_log")).fetchone()
    assert row is not None
    return int(row[0])


def wait_until(reached: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    """Look again and again, for so long."""
    until = monotonic() + seconds
    while not reached():
        assert monotonic() < until, f"waited in vain for {what}"
        sleep(0.005)


def require_all_held(talk: Talk, commands: int, bad: int, replies: Records, letters: Sequence[Letter]) -> None:
    """One effect and the same answer for each command, one letter for each bad record."""
    told = told_in(replies)
    assert len(told) == commands
    assert {len(answers) for answers in told.values()} == {1}
    assert len(letters) == bad
    dsn = talk.settings.postgres_dsn
    assert audit(dsn, acknowledged(replies)) == []
    assert violations(dsn) == []


# Killed at a chosen step.


@pytest.mark.parametrize("step", ["answered", "replied"])
def test_an_intake_killed_at_any_step_leaves_one_effect_and_the_same_answer(
    step: str, shop: str, kafka_bootstrap: str, kafka_prefix: str, tmp_path: Path
) -> None:
    settings = kafka_settings(shop, kafka_bootstrap, kafka_prefix)
    talk = Talk(settings)
    commands, bad = claims(40), malformed(4)
    talk.send(COMMANDS, messages(commands, bad))
    victim = _dying_at(step, settings, tmp_path)
    wait_until(lambda: victim.ending() is not None, "the victim's end")
    ending = victim.ending()
    assert ending is not None
    assert ending.exit_code == -signal.SIGKILL
    assert talk.committed(group_of(settings), COMMANDS) == 0
    before = talk.all_of(REPLIES)
    assert bool(before) == (step == "replied")
    with taking_in(settings):
        replies = talk.read(REPLIES, lambda found: len(found) >= len(before) + 2 * len(commands))
        letters = letters_in(talk.read(DEAD_LETTERS[0], lambda found: len(letters_in(found)) == len(bad)))
    require_all_held(talk, len(commands), len(bad), replies, letters)
    assert talk.committed(group_of(settings), COMMANDS) == 2 * len(commands) + len(bad)


def _dying_at(step: str, settings: Settings, folder: Path) -> Child:
    argv = (sys.executable, "-m", "tests.faults.intake_process", step)
    return spawn(ChildSpec(name=step, argv=argv, log_path=folder / f"{step}.log", env=settings.to_env()))


# Partitions on the move.


def test_partitions_that_change_hands_under_load_lose_nothing(
    shop: str, kafka_bootstrap: str, kafka_prefix: str
) -> None:
    settings = kafka_settings(shop, kafka_bootstrap, kafka_prefix, kafka_partitions=4)
    talk = Talk(settings)
    commands, bad = claims(600), malformed(12)
    load = messages(commands, bad)
    third = len(load) // 3
    with taking_in(settings):
        talk.send(COMMANDS, load[:third])
        with taking_in(settings):
            talk.send(COMMANDS, load[third : 2 * third])
            talk.read(REPLIES, lambda found: len(found) > third)
        talk.send(COMMANDS, load[2 * third :])
        replies = talk.read(REPLIES, lambda found: len(found) >= 2 * len(commands))
        letters = letters_in(talk.read(DEAD_LETTERS[0], lambda found: len(letters_in(found)) == len(bad)))
    require_all_held(talk, len(commands), len(bad), replies, letters)
    assert talk.committed(group_of(settings), COMMANDS) == len(load)


# Killed in turn, under load.


class _Victims:
    """What may be killed: the broker, the intake and the relay, each started again at once."""

    def __init__(self, kafka: EmbeddedKafka, settings: Settings, folder: Path) -> None:
        self._kafka = kafka
        self._settings = settings
        self._folder = folder
        self._children: dict[str, Child] = {}
        self.in_flight: Counter[str] = Counter()

    def start(self) -> None:
        """All but the broker, which runs."""
        self._start("intake")
        self._start("relay")

    def kill(self, name: str) -> None:
        """Kill -9, and start it again on the same address."""
        if name == "broker":
            assert self._kafka.child is not None
            port = self._kafka.port
            self._kafka.child.kill()
            self._kafka.child.stop()
            self._kafka.start(port)
            assert self._kafka.port == port
            return
        self._children[name].kill()
        self._children[name].stop()
        self._start(name)

    def end(self) -> None:
        """Leave none behind, however the test went; what they wrote is shown if it failed."""
        for child in self._children.values():
            child.kill()
            print(child.log_tail())

    def stop(self) -> None:
        """In good order."""
        for child in self._children.values():
            assert child.stop() == 0, child.log_tail()

    def _start(self, name: str) -> None:
        if name == "intake":
            self._children[name] = intake_process(self._settings, self._folder)
        else:
            self._children[name] = spawn(
                ChildSpec(
                    name=name,
                    argv=(sys.executable, "-m", "infra.cli", "worker", "relay"),
                    log_path=self._folder / f"{name}.log",
                    env=self._settings.to_env(),
                    grace_seconds=30.0,
                )
            )


@contextmanager
def sending(talk: Talk, load: Sequence[Sent], chunk: int, turns: threading.Semaphore) -> Iterator[threading.Thread]:
    """Send in chunks, one for each turn; what a dying broker did not acknowledge is sent again."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            for start in range(0, len(load), chunk):
                turns.acquire()
                retried(lambda at=start: talk.send(COMMANDS, load[at : at + chunk]), seconds=SECONDS)  # type: ignore[misc]
        except BaseException as error:  # noqa: BLE001 - told by the test's thread.
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield thread
    except BaseException as error:
        error.add_note(f"the sender is {'at work' if thread.is_alive() else 'done'}; it failed with {failed}")
        raise
    thread.join(SECONDS)
    assert not thread.is_alive()
    assert failed == []


@pytest.mark.timeout(1_500 if LONG else 300)
def test_commands_sent_twice_have_one_effect_whatever_is_killed_meanwhile(shop: str, tmp_path: Path) -> None:
    commands, bad = claims(COMMANDS_COUNT), malformed(MALFORMED_COUNT)
    load = messages(commands, bad)
    order = ["intake", "broker", "relay"] * ROUNDS
    chunk = -(-len(load) // (len(order) + 1))
    with running_kafka() as kafka, ExitStack() as stack:
        settings = kafka_settings(shop, kafka.address, "", ALL_TOPICS, kafka_partitions=4)
        talk, victims = Talk(settings), _Victims(kafka, settings, tmp_path)
        victims.start()
        stack.callback(victims.end)
        known, turns = logged(shop), threading.Semaphore(1)
        with sending(talk, load, chunk, turns):
            for name in order:
                wait_until(lambda: logged(shop) > known, "commands in flight")  # noqa: B023 - asked before it changes.
                known = logged(shop)
                turns.release()  # So that more is on its way to whatever dies.
                victims.kill(name)
        began = monotonic()
        replies = talk.read(REPLIES, lambda found: len(told_in(found)) == len(commands), SECONDS)
        letters = letters_in(talk.read(DEAD_LETTERS[0], lambda found: len(letters_in(found)) >= len(bad), SECONDS))
        wait_until(lambda: _finished(talk, settings), "every record to be finished")
        wait_until(lambda: _published(talk) == _offsets(shop), "every event to be published")
        seconds = monotonic() - began
        victims.stop()
        letters, replies = letters_in(talk.all_of(DEAD_LETTERS[0])), talk.all_of(REPLIES)
        sent_again = talk.committed(group_of(settings), COMMANDS) - len(load)
    print(f"{len(commands)} commands, {len(order)} kills, {len(replies)} replies, {len(letters)} letters,"
          f" {sent_again} records sent again, {seconds:.1f} s after the last kill")  # fmt: skip
    require_all_held(talk, len(commands), len(letters), replies, letters)
    assert {each.key for each in letters} == {b"bad%d" % number for number in range(len(bad))}


def _offsets(dsn: str) -> set[int]:
    """The offsets of all events in the log."""
    with psycopg.connect(dsn) as connection:
        return {event.offset for event in log_rows.events(connection, 0, log_rows.head(connection))}


def _published(talk: Talk) -> set[int]:
    """The offsets of all events on the topics."""
    heard = (decode(record) for topic in EVENT_TOPICS for record in talk.all_of(topic))
    return {each.position.offset for each in heard if isinstance(each, Published)}


def _finished(talk: Talk, settings: Settings) -> bool:
    return talk.committed(group_of(settings), COMMANDS) == talk.end_of(COMMANDS)
