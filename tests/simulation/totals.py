"""What many runs of the simulation amount to: figures that add up, in a small file that outlives each of them."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from tests.simulation.world import Result


@dataclass
class Totals:
    """Of the seeds that held; those that failed are named. ``seconds`` by the wall."""

    seeds: int = 0
    commands: int = 0  # Different ones of clients.
    sendings: int = 0
    decided: int = 0  # Different ones with an answer: of clients, sagas and timers.
    events: int = 0
    seconds: float = 0.0
    processor_seconds: float = 0.0  # Of one core.
    failed_seeds: list[int] = field(default_factory=list)

    def add(self, result: Result) -> None:
        """One more seed that held."""
        self.seeds += 1
        self.commands += result.commands
        self.sendings += result.sendings
        self.decided += result.decided
        self.events += result.events

    @classmethod
    def of(cls, runs: Iterable["Totals"]) -> Self:
        """All of them."""
        total = cls()
        for run in runs:
            for name, value in vars(run).items():
                setattr(total, name, getattr(total, name) + value)
        return total

    def text(self, of: int | None = None) -> str:
        """In words; ``of``: how many seeds it is going to be."""
        held = f"{self.seeds:,}" if of is None else f"{self.seeds:,} of {of:,}"
        failed = f", {len(self.failed_seeds)} FAILED" if self.failed_seeds else ""
        hours = self.processor_seconds / 3_600
        return (
            f"{held} seeds held{failed}: {self.commands:,} commands of clients sent {self.sendings:,} times, "
            f"{self.decided:,} commands decided, {self.events:,} events, {hours:.2f} core hours"
        )


class Ledger:
    """A file of runs, each with its tree and its figures; or no file."""

    def __init__(self, file: Path | None, *, tree: str, seeds: str, commands: int) -> None:
        self._file = file
        began = datetime.now(UTC).isoformat(timespec="microseconds")
        self._run: dict[str, Any] = {"began": began, "tree": tree, "asked_seeds": seeds, "commands_per_seed": commands}

    @property
    def runs(self) -> int:
        """How many there are, this one included."""
        return len(self._others()) + 1

    def keep(self, totals: Totals) -> None:
        """Write how far this run is; whoever reads sees the old file or the new one, never half of it."""
        self._run["totals"] = asdict(totals)
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            beside = self._file.with_suffix(".new")
            beside.write_text(json.dumps({"runs": [*self._others(), self._run]}, indent=1) + "\n")
            os.replace(beside, self._file)

    def sum(self) -> Totals:
        """All runs of the file together."""
        return Totals.of(Totals(**run["totals"]) for run in [*self._others(), self._run])

    def _others(self) -> list[dict[str, Any]]:
        """Read anew each time: another run may be going on."""
        if self._file is None or not self._file.exists():
            return []
        return [run for run in json.loads(self._file.read_text())["runs"] if run["began"] != self._run["began"]]
