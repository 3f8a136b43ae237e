"""The OpenAPI document: FastAPI's list of routes, completed from what each route states about itself."""

from collections.abc import Iterator
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from command.api import BATCH_COMMANDS_MAX, ROUTE_ONLY
from command.upstream_names import UPSTREAM_EVENTS
from contracts.access import Door
from contracts.commands import ALL_COMMANDS, Command
from contracts.commands.distribution import DISTRIBUTION_USERS_MAX
from contracts.registry import COMMANDS
from infra.entry.problems import known_codes
from infra.http.codes import BODIES
from infra.http.problems import MEDIA_TYPE
from query.ports import PAGE_MAX

TITLE: Final = "Tessera"
VERSION: Final = "1"
_REFS: Final = "#/components/schemas/{model}"

Schema = dict[str, Any]


def document(app: FastAPI) -> Schema:
    """The whole document."""
    made = get_openapi(title=TITLE, version=VERSION, routes=app.routes, description=_DESCRIPTION)
    bodies: dict[str, Schema] = {}
    for path, operations in made["paths"].items():
        for operation in operations.values():
            _complete(path, operation, bodies)
    made["paths"] = dict(sorted(made["paths"].items()))
    made["components"] = {
        "schemas": dict(sorted({**_command_schemas(), **bodies, **_code_bodies(), **_FIXED_SCHEMAS}.items())),
        "securitySchemes": {"api_key": {"type": "http", "scheme": "bearer", "bearerFormat": "tsk_<prefix>_<secret>"}},
    }
    return made


def _complete(path: str, operation: Schema, bodies: dict[str, Schema]) -> None:
    """Turn what a route states (x-…) into parameters, body, answers and security."""
    scope = operation["x-scope"]
    parameters = [_path_parameter(name) for name in _path_names(path)]
    if "x-command" in operation:
        parameters += [_parameter("at", "query", _INSTANT, "Decide as of this time (dry runs).")]
        operation["requestBody"] = _body_of_command(path, operation, bodies)
        if path != "/v1/orders/quote":
            parameters.append(_parameter("dry_run", "query", {"type": "boolean"}, "Answer, but store nothing."))
            parameters.append(_IDEMPOTENCY_KEY)
        operation["responses"] = _answers("Answer", operation)
    elif "x-list" in operation:
        parameters += _list_upload(operation)
    elif "x-body" in operation:
        if operation["x-body"] == "CommandBatch" or "x-keyed" in operation:
            parameters.append(_IDEMPOTENCY_KEY)
        operation["requestBody"] = _json_body(operation["x-body"])
        operation["responses"] = _answers("BatchAnswer" if operation["x-body"] == "CommandBatch" else "Answer", {})
    elif "x-shows" in operation:
        parameters.append(_parameter("min_position", "query", {"type": "string"}, "Show at least this position."))
        is_list = "x-filters" in operation
        if is_list:
            parameters.append(_parameter("cursor", "query", {"type": "string"}, "`next_cursor` of the page before."))
            parameters.append(_parameter("limit", "query", _LIMIT, "Items per page."))
            filters = operation.pop("x-filters")
            parameters += [_parameter(name, "query", {"type": "string"}, "Narrows the list.") for name in filters]
        operation["responses"] = _responses("200", "Page" if is_list else "Item")
    operation["responses"] = _file_or(operation, parameters)
    if scope != Door.PUBLIC:
        operation["security"] = [{"api_key": []}]
    operation["parameters"] = parameters
    for name in _STATED:
        operation.pop(name, None)


_CSV_NAMES: Final = ("template_id", "distribution_id", "column")
_STATED: Final = (
    *("x-command", "x-creates", "x-awaits-checkout", "x-body", "x-list", "x-file"),
    *("x-keyed", "x-formats"),
)


def _file_or(operation: Schema, parameters: list[Schema]) -> Schema:
    """The answers of a route; a file's are no JSON."""
    if "x-formats" in operation:
        parameters.append(_parameter("format", "query", {"enum": operation["x-formats"]}, "csv unless told."))
    if "x-file" not in operation:
        answers: Schema = operation["responses"]
        return answers
    file = _responses("200", "Answer")
    file["200"]["content"] = {"text/csv": {"schema": _TEXT}}
    return file


def _list_upload(operation: Schema) -> list[Schema]:
    """A list of users: JSON, or CSV with the names in the query. Answered before it is worked off."""
    operation["requestBody"] = _json_body(operation["x-body"])
    operation["requestBody"]["content"]["text/csv"] = {"schema": _CSV_LIST}
    operation["responses"] = _responses("202", "Answer")
    dry_run = _parameter("dry_run", "query", {"type": "boolean"}, "Answer, but store nothing.")
    names = [_parameter(name, "query", _TEXT, "Of a CSV file.") for name in _CSV_NAMES]
    return [*names, dry_run, _IDEMPOTENCY_KEY]


def _body_of_command(path: str, operation: Schema, bodies: dict[str, Schema]) -> Schema:
    """The command's schema without the fields that the path fills."""
    command = COMMANDS[operation["x-command"]]
    filled = set(_path_names(path))
    schema = command.model_json_schema(ref_template=_REFS)
    schema.pop("$defs", None)
    schema["properties"] = {name: each for name, each in schema["properties"].items() if name not in filled}
    required = [name for name in schema.pop("required", ()) if name not in filled]
    if required:
        schema["required"] = required
    name = f"{command.__name__}Body"
    bodies[name] = schema
    return {**_json_body(name), "required": bool(required)}


def _command_schemas() -> dict[str, Schema]:
    """Every command and whatever commands are made of, by class name."""
    pairs: list[tuple[type[Command], Any]] = [(command, "validation") for command in ALL_COMMANDS]
    _, definitions = models_json_schema(pairs, ref_template=_REFS)
    schemas: dict[str, Schema] = definitions["$defs"]
    return schemas


def _code_bodies() -> dict[str, Schema]:
    """What requests about codes carry: not quite their commands, which never hold a code."""
    made = {name: body.model_json_schema(ref_template=_REFS) for name, body in BODIES.items()}
    return {name: {key: value for key, value in schema.items() if key != "$defs"} for name, schema in made.items()}


def _answers(schema: str, stated: Schema) -> Schema:
    if stated.get("x-awaits-checkout"):
        late = {"description": "Recorded; the outcome is not known yet. `Location` says where it will be."}
        done = "201" if stated.get("x-creates") else "200"
        return {**_responses(done, schema), "202": {**late, "content": _content(schema)}}
    return _responses("201" if stated.get("x-creates") else "200", schema)


def _responses(status: str, schema: str) -> Schema:
    problem = {"description": "A problem, with its `code`.", "content": {MEDIA_TYPE: {"schema": _ref("Problem")}}}
    return {status: {"description": "Answered.", "content": _content(schema)}, "default": problem}


def _json_body(schema: str) -> Schema:
    return {"required": True, "content": _content(schema)}


def _content(schema: str) -> Schema:
    return {"application/json": {"schema": _ref(schema)}}


def _ref(name: str) -> Schema:
    return {"$ref": _REFS.format(model=name)}


def _path_names(path: str) -> Iterator[str]:
    return (part[1:-1] for part in path.split("/") if part.startswith("{"))


def _path_parameter(name: str) -> Schema:
    schema = {"type": "string", "minLength": 1, "maxLength": 128}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _parameter(name: str, place: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": place, "required": False, "schema": schema, "description": description}


_INSTANT: Final = {"type": "string", "format": "date-time"}
_LIMIT: Final = {"type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": 50}
_IDEMPOTENCY_KEY: Final = _parameter(
    "Idempotency-Key",
    "header",
    {"type": "string", "minLength": 1, "maxLength": 128},
    "The command's id. Sent again with the same content it returns the first answer; when absent one is made.",
)
_TEXT: Final = {"type": "string"}
_OBJECT: Final = {"type": "object"}
_CSV_LIST: Final = {**_TEXT, "description": "A column `user_id`, or only one column."}
_FIXED_SCHEMAS: Final[dict[str, Schema]] = {
    "Answer": {
        "type": "object",
        "required": ["command_id", "status", "position", "data"],
        "properties": {
            "command_id": _TEXT,
            "status": {"const": "accepted"},
            "position": {**_TEXT, "description": "Opaque; a read with it as `min_position` shows this effect."},
            "data": {**_OBJECT, "description": "What the command did."},
            "checkout": {**_OBJECT, "description": "How the order's checkout went, where it was awaited."},
            "dry_run": {"type": "boolean"},
        },
    },
    "CommandBatch": {
        "type": "object",
        "required": ["commands"],
        "additionalProperties": False,
        "properties": {
            "commands": {
                "type": "array",
                "minItems": 1,
                "maxItems": BATCH_COMMANDS_MAX,
                "items": {
                    "type": "object",
                    "required": ["type"],
                    "additionalProperties": False,
                    "properties": {
                        "type": {"enum": sorted(COMMANDS.keys() - {command.type for command in ROUTE_ONLY})},
                        "command_id": {
                            "type": "string",
                            "maxLength": 128,
                            "description": "When absent: the request's Idempotency-Key and the item's index.",
                        },
                        "data": {**_OBJECT, "description": "The command's fields, by its schema."},
                    },
                },
            }
        },
    },
    "BatchAnswer": {
        "type": "object",
        "required": ["answers"],
        "properties": {
            "answers": {"type": "array", "items": {"anyOf": [_ref("Answer"), _ref("Problem")]}},
        },
    },
    "DistributionRequest": {
        "type": "object",
        "required": ["template_id", "user_ids"],
        "additionalProperties": False,
        "properties": {
            "template_id": _TEXT,
            "distribution_id": {**_TEXT, "description": "When absent it follows from the Idempotency-Key."},
            "user_ids": {
                "type": "array",
                "minItems": 1,
                "maxItems": DISTRIBUTION_USERS_MAX,
                "items": {"type": "string", "minLength": 1, "maxLength": 128},
            },
        },
    },
    "UpstreamEvent": {
        "type": "object",
        "required": ["event", "id", "data"],
        "additionalProperties": False,
        "properties": {
            "event": {"enum": sorted(UPSTREAM_EVENTS)},
            "id": {"type": "string", "description": "The upstream's id of this event: hearing it twice is once."},
            "data": _OBJECT,
        },
    },
    "Item": {
        "type": "object",
        "required": ["data", "position"],
        "properties": {"data": _OBJECT, "position": _TEXT},
    },
    "Page": {
        "type": "object",
        "required": ["items", "next_cursor", "position"],
        "properties": {
            "items": {"type": "array", "items": _OBJECT, "maxItems": PAGE_MAX},
            "next_cursor": {"type": ["string", "null"]},
            "position": _TEXT,
        },
    },
    "Problem": {
        "type": "object",
        "description": "RFC 9457.",
        "required": ["type", "title", "status", "detail", "code", "retryable", "errors", "request_id"],
        "properties": {
            "type": _TEXT,
            "title": _TEXT,
            "status": {"type": "integer"},
            "detail": _TEXT,
            "code": {**_TEXT, "examples": sorted(known_codes())},
            "retryable": {"type": "boolean", "description": "May the same request, with the same id, be sent again?"},
            "hint": {
                "const": True,
                "description": "A foreseen refusal: nothing was decided or stored. With the same id it is decided.",
            },
            "errors": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["pointer", "code", "message"],
                    "properties": {
                        "pointer": {**_TEXT, "description": "JSON Pointer into the body; `?name` for the query."},
                        "code": _TEXT,
                        "message": _TEXT,
                    },
                },
            },
            "request_id": _TEXT,
        },
    },
}

_DESCRIPTION: Final = (
    "A promotion engine whose books always balance. Every operation states the scope that its API key needs "
    "(`x-scope`); tenant and app come from the key. Errors are RFC 9457 problems with a stable `code`."
)
