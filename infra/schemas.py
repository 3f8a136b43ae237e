"""The published schemas: every event, every command, the HTTP interface and the topics, generated from the code.

``python -m infra.schemas write`` brings ``contracts/schemas/`` up to date; ``check`` says what differs and fails.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Final

from command.upstream_names import UPSTREAM_EVENTS
from contracts.commands import ALL_COMMANDS
from contracts.events import ALL_EVENTS
from contracts.values import Value
from infra import asyncapi
from infra.http.app import HttpParts, create_app

FOLDER: Final = Path(__file__).resolve().parents[1] / "contracts" / "schemas"
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def generated() -> dict[str, str]:
    """File name -> content, for everything in the folder."""
    return dict(_files())


def differences(folder: Path = FOLDER) -> list[str]:
    """What in the folder is missing, stale or no longer generated."""
    wanted = generated()
    present = {str(path.relative_to(folder)): path for path in folder.rglob("*.json")}
    stale = [name for name in wanted.keys() & present.keys() if present[name].read_text() != wanted[name]]
    return sorted(
        [f"missing: {name}" for name in wanted.keys() - present.keys()]
        + [f"not generated: {name}" for name in present.keys() - wanted.keys()]
        + [f"differs from the code: {name}" for name in stale]
    )


def write(folder: Path = FOLDER) -> None:
    """Make the folder what the code says."""
    wanted = generated()
    for path in folder.rglob("*.json"):
        if str(path.relative_to(folder)) not in wanted:
            path.unlink()
    for name, content in wanted.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def _files() -> Iterator[tuple[str, str]]:
    for event in ALL_EVENTS:
        # Consumers ignore what they do not know, so an event's schema allows more members.
        yield f"events/{event.type}.json", _text(_schema(event, event.type, "serialization"))
    for command in ALL_COMMANDS:
        yield f"commands/{command.type}.json", _text(_schema(command, command.type, "validation"))
    for name, upstream in UPSTREAM_EVENTS.items():
        about = {"title": name, "description": upstream.about}
        schema = {"$schema": _DIALECT, "$id": f"urn:tessera:schema:upstream:{name}", **about, **upstream.schema()}
        yield f"upstream/{name}.json", _text(schema)
    yield "openapi.json", _text(_openapi())
    yield "asyncapi.json", _text(asyncapi.document())


def _schema(model: type[Value] | Any, name: str, mode: Any) -> dict[str, Any]:
    schema: dict[str, Any] = model.model_json_schema(mode=mode)
    return {"$schema": _DIALECT, "$id": f"urn:tessera:schema:{name}", **schema}


def _openapi() -> dict[str, Any]:
    # Documenting needs the routes, and nobody behind them.
    nobody: Any = None
    required = [each.name for each in fields(HttpParts) if each.default is MISSING and each.default_factory is MISSING]
    return create_app(HttpParts(**dict.fromkeys(required, nobody))).openapi()


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Run ``write`` or ``check``; returns the exit code."""
    if arguments == ["write"]:
        write()
        return 0
    if arguments == ["check"]:
        found = differences()
        sys.stderr.writelines(f"{line}\n" for line in found)
        return 1 if found else 0
    sys.stderr.write("usage: python -m infra.schemas write|check\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
