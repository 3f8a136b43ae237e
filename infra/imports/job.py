"""What one import is: which files, by which mapping, into whose realm, under which name."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contracts.identity import Realm
from infra.imports.errors import BadMapping
from infra.imports.mapping import Mapping

SETTLE_SECONDS: Final = 120.0
_IMPORT_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class ImportJob:
    """What to import: which files, by which mapping, into whose realm, under which name.

    ``settle_seconds`` bounds the wait for sagas, timers and projections before totals that need them are final.
    """

    folder: Path
    mapping: Mapping
    realm: Realm
    import_id: str
    accept_changed: bool = False
    settle_seconds: float = SETTLE_SECONDS

    def __post_init__(self) -> None:
        if _IMPORT_ID.fullmatch(self.import_id) is None:
            raise BadMapping(
                self.import_id, "an import's name is up to 63 letters, digits, dots, hyphens and underscores"
            )


def job_of(folder: Path, mapping: Mapping, *, realm: Realm | None = None, import_id: str | None = None) -> ImportJob:
    """An import with the mapping's own realm and name where the caller names no others. Raises BadMapping."""
    return ImportJob(folder, mapping, realm or mapping.realm, import_id or mapping.name)
