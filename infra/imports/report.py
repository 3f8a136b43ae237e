"""What an import reports: where every row went, to the last digit, and whether source and stores agree."""

from collections.abc import Mapping as Dictionary
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from contracts.identity import Realm
from infra.imports.mapping import Mapping
from infra.imports.plan import StatementSize
from infra.imports.tally import OUTCOMES, Tally


class Watcher(Protocol):
    """Whoever shows how it goes: a progress bar, lines of JSON, or nobody."""

    def began(self, rows_total: int, rows_done: int) -> None:
        """The plan is made; so many of its rows were settled by earlier runs."""
        ...

    def moved(self, rows_done: int) -> None:
        """So many rows are settled now."""
        ...

    def checking(self, total: str) -> None:
        """A total is being read back."""
        ...

    def ended(self) -> None:
        """All rows are settled."""
        ...


class NobodyWatches:
    """The watcher of those who need none."""

    def began(self, rows_total: int, rows_done: int) -> None:
        """Ignored."""

    def moved(self, rows_done: int) -> None:
        """Ignored."""

    def checking(self, total: str) -> None:
        """Ignored."""

    def ended(self) -> None:
        """Ignored."""


@dataclass(frozen=True, slots=True)
class CheckedTotal:
    """One total read back from one store. ``missing`` and ``extra`` are the first rows in which they differ."""

    name: str
    store: str
    rows: int
    agrees: bool
    missing: Sequence[Sequence[str]] = ()
    extra: Sequence[Sequence[str]] = ()


@dataclass(frozen=True, slots=True)
class StatementReport:
    """One statement: how much it made and where that went."""

    name: str
    about: str
    size: StatementSize
    tally: Tally

    @property
    def is_complete(self) -> bool:
        """Every row has exactly one outcome."""
        source_rows = sum(self.tally.source_rows.values())
        return self.tally.rows_total == self.size.rows and source_rows == self.size.source_rows


@dataclass(frozen=True, slots=True)
class ImportReport:
    """The whole import, earlier runs included; ``seconds`` is this run alone, without the checking."""

    import_id: str
    mapping: str
    realm: Realm
    currency: str | None
    dry: bool
    seconds: float
    statements: Sequence[StatementReport]
    totals: Sequence[CheckedTotal]

    @property
    def agrees(self) -> bool:
        """Every row has a place and every total was read back as it was told."""
        return all(part.is_complete for part in self.statements) and all(total.agrees for total in self.totals)

    def as_json(self) -> dict[str, Any]:
        """For ``--json``: amounts are decimal strings."""
        return {
            "import_id": self.import_id,
            "mapping": self.mapping,
            "tenant_id": self.realm.tenant_id,
            "app_id": self.realm.app_id,
            "dry_run": self.dry,
            "agrees": self.agrees,
            "seconds": round(self.seconds, 3),
            "statements": [self._statement_json(part) for part in self.statements],
            "totals": [asdict(total) for total in self.totals],
        }

    def _statement_json(self, part: StatementReport) -> dict[str, Any]:
        rounding = part.tally.rounding(self.currency)
        return {
            "name": part.name,
            "rows_total": part.size.rows,
            "source_rows_total": part.size.source_rows,
            **part.tally.as_json(),
            "rounding": None if rounding is None else format(rounding, "f"),
        }


def report_of(
    mapping: Mapping,
    import_id: str,
    realm: Realm,
    sizes: Dictionary[str, StatementSize],
    tallies: Dictionary[str, Tally],
    seconds: float,
    *,
    totals: Sequence[CheckedTotal] = (),
    dry: bool = False,
) -> ImportReport:
    """Put a report together, statements in the mapping's order."""
    statements = [
        StatementReport(statement.name, statement.about, sizes[statement.name], tallies.get(statement.name, Tally()))
        for statement in mapping.statements
    ]
    return ImportReport(import_id, mapping.name, realm, mapping.currency, dry, seconds, statements, totals)


def outcomes_of(tally: Tally) -> list[tuple[str, str, int]]:
    """(outcome, code, rows), applied first."""
    order: dict[str, int] = {outcome: place for place, outcome in enumerate(OUTCOMES)}
    return sorted(
        ((outcome, code, count) for (outcome, code), count in tally.rows.items()), key=lambda o: (order[o[0]], o[1])
    )
