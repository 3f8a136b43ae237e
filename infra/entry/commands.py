"""Commands from JSON: by their own names, and by those that upstreams report events under."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json

from command.api import ROUTE_ONLY, SCOPE_OF_COMMAND
from command.upstream_members import UntranslatableEvent
from command.upstream_names import translate
from contracts.access import ROLES, Caller, Scope
from contracts.commands import Command
from contracts.registry import UnknownCommandType, command_class
from infra.entry.bodies import malformed, object_at, problem_of, text_at
from infra.entry.ids import bounded_id
from infra.entry.problems import FieldError, Problem


def command_of(caller: Caller, body: Mapping[str, Any]) -> Command:
    """The command of a batch's item. Raises Problem, with pointers into the item."""
    try:
        command = command_class(text_at(body["type"], "/type"))
    except UnknownCommandType as error:
        raise malformed([FieldError("/type", "unknown_command", str(error))]) from None
    require_scope(caller, SCOPE_OF_COMMAND[command])
    if (path := ROUTE_ONLY.get(command)) is not None:
        message = f"is more than a command and does not go in a batch: send it to POST {path}"
        raise malformed([FieldError("/type", "has_its_own_route", message)])
    raw = to_json(object_at(body.get("data", {}), "/data", None))
    try:
        return command.model_validate_json(raw)
    except ValidationError as error:
        problem = problem_of(error, raw)
        raise malformed([each._replace(pointer=f"/data{each.pointer}") for each in problem.errors]) from None


def reported_event(body: Mapping[str, Any], *, default_currency: str) -> tuple[Command, str]:
    """An upstream's event under its own name (``event``, ``id``, ``data``): the command it means, and that one's id.

    The id follows from the event's: hearing of it twice, by whichever way, does nothing twice. Raises Problem.
    """
    data = object_at(body["data"], "/data", None)
    event, event_id = text_at(body["event"], "/event"), text_at(body["id"], "/id")
    try:
        command = translate(event, data, default_currency=default_currency)
    except UntranslatableEvent as error:
        pointer = f"/data/{error.field}" if error.field else "/event"
        raise malformed([FieldError(pointer, error.code, str(error))]) from None
    except ValidationError as error:
        # Its places are those of our command, not of their event: the words have to do.
        raise malformed([FieldError("/data", "invalid", _words(error))]) from None
    return command, bounded_id(f"upstream:{event}:{event_id}", "/id")


def require_scope(caller: Caller, scope: Scope) -> None:
    """Raises Problem (403) when the caller lacks it."""
    if scope not in caller.scopes:
        detail = f"this needs the scope {scope.value}, which {caller.actor} does not have; {a_key_with(scope)} does"
        raise Problem("scope_missing", detail, extra={"scope": scope.value})


def a_key_with(scope: Scope) -> str:
    """Which keys have a scope, and how one is made, in words."""
    *others, last = (role for role, scopes in ROLES.items() if scope in scopes)
    roles = f"{', '.join(others)} or {last}" if others else last
    return f"a key of the role {roles} (`tessera keys create --role {(*others, last)[0]}`)"


def _words(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg'].removeprefix('Value error, ')}"
