"""A dead letter keeps the whole record, tells why and from where, and remembers what became of it."""

from datetime import UTC, datetime

import pytest

from contracts.topics import WRITTEN_BYTES_MAX
from infra.intake.dead_letters import Letter, Origin, dead_letter, letters_in, mark, original
from infra.intake.messages import VALUE_BYTES_MAX, Outgoing
from infra.kafka.messages import Record
from tests.unit.intake.world import FakeRecord

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def written(message: Outgoing, offset: int = 0, partition: int = 0) -> Record:
    """A message as it is read again."""
    return FakeRecord(message.value, message.headers, offset, message.topic, partition, message.key)


def refused(record: Record) -> Outgoing:
    """The letter of a record."""
    return dead_letter("dead", record, reason="wrong_type", detail="/data: must be an object", now=NOW)


def only(letters: list[Letter]) -> Letter:
    """The one letter."""
    assert len(letters) == 1
    return letters[0]


EVIL = FakeRecord(b"\xff", (("reason", b"mine"), ("tenant", b"a"), ("tenant", b"\xff")), 41, "t", 3, None)


def test_a_letter_keeps_the_record_as_it_came() -> None:
    letter = only(letters_in([written(refused(EVIL))]))
    assert (letter.key, letter.value, letter.headers) == (EVIL.key, EVIL.value, EVIL.headers)
    assert letter.origin == Origin("t", 3, 41)
    assert (letter.reason, letter.detail) == ("wrong_type", "/data: must be an object")
    assert letter.refused_at == "2026-01-02T03:04:05.000Z"
    assert letter.settled is None


def test_a_letter_written_twice_is_one() -> None:
    again = [written(refused(EVIL)), written(refused(EVIL), offset=1, partition=2)]
    assert len(letters_in(again)) == 1


def test_a_mark_settles_its_letter_wherever_it_is_read() -> None:
    first = written(refused(EVIL))
    done = written(mark(only(letters_in([first])), "requeued", now=NOW, actor="operator:ann"), offset=1)
    for records in ([first, done], [done, first], [first, done, first]):
        letter = only(letters_in(records))
        assert (letter.settled, letter.settled_at) == ("requeued", "2026-01-02T03:04:05.000Z")


def test_a_record_that_looks_like_a_mark_is_still_a_letter() -> None:
    looks_so = FakeRecord(None, (("settled", b"dropped"), ("origin-topic", b"t")), 5)
    letter = only(letters_in([written(refused(looks_so))]))
    assert letter.settled is None


def test_what_others_wrote_to_the_topic_is_left_out() -> None:
    others = [FakeRecord(b"x"), FakeRecord(None, ()), FakeRecord(b"x", (("reason", b"r"), ("origin-offset", b"x")))]
    assert letters_in(others) == []


def test_the_original_goes_back_as_it_came_and_says_that_it_did() -> None:
    letter = only(letters_in([written(refused(EVIL))]))
    again = original(letter)
    assert (again.topic, again.key, again.value) == (EVIL.topic, EVIL.key, EVIL.value)
    assert again.headers == (*EVIL.headers, ("requeued-from", b"t:3:41"))


def test_a_value_that_is_too_large_is_cut_and_cannot_go_back() -> None:
    large = FakeRecord(b"x" * (VALUE_BYTES_MAX + 1))
    letter = only(letters_in([written(refused(large))]))
    assert letter.cut == "value"
    assert len(letter.value or b"") == VALUE_BYTES_MAX
    with pytest.raises(ValueError, match="not kept here whole: its value"):
        original(letter)


def test_a_letter_is_never_larger_than_its_topic_takes() -> None:
    many = tuple((f"name-{number}", b"x" * 100) for number in range(20_000))
    large = FakeRecord(b"v" * (VALUE_BYTES_MAX + 1), many, 41, "t", 3, b"k" * VALUE_BYTES_MAX)
    message = refused(large)
    around = sum(len(name) + len(value) + 10 for name, value in message.headers)
    assert len(message.key or b"") + len(message.value or b"") + around < WRITTEN_BYTES_MAX - 100_000
    letter = only(letters_in([written(message)]))
    assert (letter.cut, letter.origin) == ("value,key,headers", Origin("t", 3, 41))
    assert letter.headers == many[: len(letter.headers)]
    with pytest.raises(ValueError, match="not kept here whole: its value,key,headers"):
        original(letter)


def test_a_record_of_nothing_at_all_is_kept_as_one_that_can_be_sent() -> None:
    message = refused(FakeRecord(None, (), 9, "t", 0, None))
    assert message.value is not None
    letter = only(letters_in([written(message)]))
    assert (letter.key, letter.value, letter.headers) == (None, None, ())
    with pytest.raises(ValueError, match="nothing at all"):
        original(letter)


def test_an_origin_is_its_name() -> None:
    assert Origin.parse("a:b-topic:3:41") == Origin("a:b-topic", 3, 41)
    assert str(Origin("t", 3, 41)) == "t:3:41"
    with pytest.raises(ValueError):
        Origin.parse("t:3")
