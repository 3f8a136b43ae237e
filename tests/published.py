"""A reader of topics that knows nothing of this program: only the JSON documents that it publishes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

_BASE: Final = "file:///published/"
_DOCUMENT: Final = "asyncapi.json"


class NotAsPublished(AssertionError):
    """A record is none of those that the documents describe."""


@dataclass(frozen=True)
class Read:
    """What a record turned out to be: the message's name, its headers as text, its value as JSON."""

    name: str
    headers: Mapping[str, str]
    value: Any


class PublishedContract:
    """The documents of a folder: ``asyncapi.json`` and what it refers to."""

    def __init__(self, folder: Path) -> None:
        contents = {str(path.relative_to(folder)): json.loads(path.read_text()) for path in folder.rglob("*.json")}
        self.document: dict[str, Any] = contents[_DOCUMENT]
        self._registry: Registry[Any] = Registry().with_resources(
            (_BASE + name, Resource.from_contents(each, default_specification=DRAFT202012))
            for name, each in contents.items()
        )
        self._validators: dict[str, Draft202012Validator] = {}

    @cached_property
    def topics(self) -> dict[str, dict[str, Any]]:
        """Address without its parameter -> channel."""
        return {each["address"].partition("}")[2]: each for each in self.document["channels"].values()}

    def topics_sent(self) -> set[str]:
        """The topics that the program sends to."""
        sends = [each for each in self.document["operations"].values() if each["action"] == "send"]
        return {self.resolve(each["channel"])["address"].partition("}")[2] for each in sends}

    def read(self, topic: str, key: bytes | None, headers: Sequence[tuple[str, bytes]], value: bytes | None) -> Read:
        """Raises NotAsPublished when the record is none of its topic's messages, or not exactly one."""
        told = {name: text.decode() for name, text in headers}
        content = None if value is None else json.loads(value)
        meant = [name for name, message in self._messages_of(topic) if self._fits(message, key, told)]
        if len(meant) != 1:
            raise NotAsPublished(f"{topic}: headers {told} are those of {meant or 'no message'}")
        if (wrong := self.complaint(meant[0], content)) is not None:
            raise NotAsPublished(f"{topic}: {wrong}")
        return Read(meant[0], told, content)

    def complaint(self, message: str, value: Any) -> str | None:
        """What is wrong with the value of a message of this name, or None."""
        error = next(self._validator(f"components/messages/{message}/payload/schema").iter_errors(value), None)
        return None if error is None else f"{message} at {error.json_path}: {error.message}"

    def resolve(self, reference: Mapping[str, str]) -> dict[str, Any]:
        """What a reference within or beyond the document points to."""
        resolver = self._registry.resolver(_BASE + _DOCUMENT)
        found: dict[str, Any] = resolver.lookup(reference["$ref"]).contents
        return found

    def _messages_of(self, topic: str) -> list[tuple[str, dict[str, Any]]]:
        return [(name, self.resolve(each)) for name, each in self.topics[topic]["messages"].items()]

    def _fits(self, message: Mapping[str, Any], key: bytes | None, headers: Mapping[str, str]) -> bool:
        is_keyed = "key" in message.get("bindings", {}).get("kafka", {})
        schema = f"components/messages/{message['name']}/headers"
        return is_keyed == (key is not None) and self._validator(schema).is_valid(dict(headers))

    def _validator(self, path: str) -> Draft202012Validator:
        if path not in self._validators:
            schema = {"$ref": f"{_BASE}{_DOCUMENT}#/{path}"}
            self._validators[path] = Draft202012Validator(schema, registry=self._registry)
        return self._validators[path]
