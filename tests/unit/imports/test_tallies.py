"""Counts and amounts survive being stored, and reports say whether every row has a place."""

from collections import Counter
from decimal import Decimal

from infra.imports.plan import StatementSize
from infra.imports.report import StatementReport
from infra.imports.tally import Tally
from infra.imports.totals import _compare, _counted


def sample() -> Tally:
    tally = Tally()
    tally.add("applied", "ok", source_rows=3, amount=Decimal("10.005"), booked_minor=1_000)
    tally.add("refused", "ended", source_rows=1, amount=Decimal("2.5"), booked_minor=250)
    tally.add("parked", "negative_quantity", source_rows=1, amount=None, booked_minor=None)
    return tally


def test_a_tally_comes_back_as_it_was_stored() -> None:
    assert Tally.from_json(sample().as_json()) == sample()


def test_only_applied_rows_are_booked_and_only_they_have_rounding() -> None:
    assert sample().booked_minor == 1_000
    assert sample().rounding("GBP") == Decimal("-0.005")
    assert sample().exact == {"applied": Decimal("10.005"), "refused": Decimal("2.5")}


def test_a_statement_is_complete_when_rows_and_source_rows_are_all_placed() -> None:
    def report(size: StatementSize) -> bool:
        return StatementReport("orders", "", size, sample()).is_complete

    assert report(StatementSize(rows=3, source_rows=5))
    assert not report(StatementSize(rows=4, source_rows=5))
    assert not report(StatementSize(rows=3, source_rows=6))


def test_totals_are_compared_as_bags_of_rows_in_one_writing() -> None:
    ours = _counted([("o1", 10, Decimal("1.50")), ("o2", 3, None)])
    theirs = _counted([("o2", Decimal("3.000"), ""), ("o1", 10, Decimal("1.5"))])
    assert _compare("orders", "PostgreSQL", ours, theirs).agrees


def test_a_row_too_many_or_too_few_is_a_difference_and_is_shown() -> None:
    compared = _compare("orders", "ClickHouse", Counter([("o1",), ("o1",), ("o2",)]), Counter([("o1",), ("o3",)]))
    assert not compared.agrees
    assert list(compared.missing) == [("o1",), ("o2",)]
    assert list(compared.extra) == [("o3",)]
