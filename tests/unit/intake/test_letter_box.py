"""What is read of the dead letters is bounded: the oldest go first."""

from infra.intake.letter_box import _Latest
from tests.unit.intake.world import FakeRecord


def test_the_oldest_letters_are_let_go_of_when_all_are_too_large() -> None:
    latest = _Latest(1_000)
    for offset in range(10):
        latest.add(FakeRecord(b"x" * 300, (("name", b"y" * 5),), offset))
    assert [record.offset for record in latest.records] == [7, 8, 9]
    assert latest.left_out == 7
    latest.add(FakeRecord(b"x" * 2_000, (), 10))
    assert list(latest.records) == []
