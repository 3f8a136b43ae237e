"""What people and programs see of an import."""

from io import StringIO

import orjson
from rich.console import Console

from contracts.identity import Realm
from infra.imports.display import BarWatcher, LineWatcher, print_report
from infra.imports.job import job_of
from infra.imports.plan import StatementSize
from infra.imports.report import CheckedTotal, ImportReport, StatementReport
from infra.imports.runner import dry_run
from tests.unit.imports.samples import Shop
from tests.unit.imports.test_tallies import sample


def report(*totals: CheckedTotal, rows: int = 3) -> ImportReport:
    part = StatementReport("orders", "", StatementSize(rows, 5), sample())
    return ImportReport("march", "corner_shop", Realm("corner", "shop"), "GBP", False, 1.5, [part], totals)


def printed(it: ImportReport) -> str:
    out = StringIO()
    print_report(it, Console(file=out, width=120))
    return out.getvalue()


def cells(text: str) -> list[list[str]]:
    """The tables' rows, without their frames."""
    rows = (line.replace("┃", "│").split("│") for line in text.splitlines() if "│" in line or "┃" in line)
    return [[cell.strip() for cell in row[1:-1]] for row in rows]


def test_people_see_where_every_row_went_and_the_rounding() -> None:
    text = printed(report(CheckedTotal("orders, one by one", "PostgreSQL", 3, agrees=True)))
    assert ["orders", "applied", "ok", "1", "3"] in cells(text)
    assert ["orders", "refused", "ended", "1", "1"] in cells(text)
    assert ["orders", "parked", "negative_quantity", "1", "1"] in cells(text)
    assert ["orders", "10.005", "2.500", "10.00", "-0.005"] in cells(text)
    assert "Source and stores agree." in text


def test_people_see_what_differs() -> None:
    total = CheckedTotal("orders", "ClickHouse", 3, agrees=False, missing=[("o1", "[red]")], extra=[("o2", "5")])
    text = printed(report(total))
    assert "DISAGREES  ClickHouse: orders (3 rows)" in text
    assert "expected, not found: o1, [red]" in text  # What files say is no mark-up.
    assert "found, not expected: o2, 5" in text
    assert "Source and stores DISAGREE." in text


def test_people_see_a_statement_of_which_rows_are_missing() -> None:
    text = printed(report(rows=4))
    assert ["", "all", "incomplete", "4", "5"] in cells(text)
    assert "Source and stores DISAGREE." in text


def test_programs_hear_of_progress_line_by_line(shop: Shop) -> None:
    lines: list[str] = []
    watcher = LineWatcher(lines.append)
    dry_run(job_of(shop.data, shop.mapping()), watcher)
    watcher.ended()
    watcher.ended()
    events = [orjson.loads(line) for line in lines]
    assert events[0] == {"event": "began", "rows_total": 6, "rows_done": 0}
    assert events[-2:] == [
        {"event": "moved", "rows_total": 6, "rows_done": 6},
        {"event": "ended", "rows_total": 6},
    ]


def test_programs_do_not_hear_of_an_end_that_did_not_come() -> None:
    lines: list[str] = []
    watcher = LineWatcher(lines.append)
    watcher.began(6, 0)
    watcher.ended()
    assert [orjson.loads(line)["event"] for line in lines] == ["began"]


def test_the_bar_goes_away_also_when_it_never_came() -> None:
    out = StringIO()
    watcher = BarWatcher(Console(file=out, force_terminal=True))
    watcher.ended()
    watcher.began(6, 2)
    watcher.moved(6)
    watcher.ended()
    watcher.ended()
    assert "6/6" in out.getvalue()
