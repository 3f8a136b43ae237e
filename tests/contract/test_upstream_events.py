"""What upstreams may send under their own names, as it is published and described, and as it is taken in."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from command.upstream_members import Member, UntranslatableEvent
from command.upstream_names import UPSTREAM_EVENTS, translate
from contracts.topics import ORDER_FACTS, PAYMENT_FACTS
from infra import schemas
from tests.published import PublishedContract
from tests.upstreams import REFUSED, TAKEN

KAFKA_DOC = (Path(__file__).parents[2] / "docs" / "kafka.md").read_text()
BEYOND_A_SCHEMA = ("order.created", {"order_id": 1, "total_amount": "1.005"})  # How many digits a currency has.


@pytest.fixture(scope="module")
def published() -> PublishedContract:
    return PublishedContract(schemas.FOLDER)


def is_taken(event: str, data: dict[str, Any]) -> bool:
    try:
        translate(event, data, default_currency="USD")
    except (UntranslatableEvent, ValidationError):
        return False
    return True


def complaint(published: PublishedContract, event: str, data: Any) -> str | None:
    return published.complaint(event, {"event": event, "id": "e1", "data": data})


def test_each_name_has_a_message_of_its_own_on_one_topic(published: PublishedContract) -> None:
    for topic, names in ((ORDER_FACTS, {"order"}), (PAYMENT_FACTS, {"payment", "refund"})):
        messages = set(published.topics[topic.name]["messages"])
        assert {name for name in UPSTREAM_EVENTS if name.partition(".")[0] in names} <= messages
    assert {event for event, *_ in TAKEN} == UPSTREAM_EVENTS.keys()


@pytest.mark.parametrize(("event", "data", "_echo"), TAKEN)
def test_what_is_taken_is_as_published_and_without_a_needed_member_neither(
    published: PublishedContract, event: str, data: dict[str, Any], _echo: Any
) -> None:
    assert complaint(published, event, data) is None
    for name in data:
        for cut in ({**data, name: None}, {other: value for other, value in data.items() if other != name}):
            assert (complaint(published, event, cut) is None) == is_taken(event, cut), cut
        odd = {**data, name: {"neither": "text", "nor": "number"}}
        assert (complaint(published, event, odd) is None) == is_taken(event, odd), odd


@pytest.mark.parametrize(("event", "data", "_code", "_pointer"), REFUSED)
def test_what_is_refused_is_not_as_published(
    published: PublishedContract, event: str, data: dict[str, Any], _code: str, _pointer: str
) -> None:
    if event in UPSTREAM_EVENTS:
        assert (complaint(published, event, data) is None) == ((event, data) == BEYOND_A_SCHEMA)


def test_the_document_s_table_names_every_event_and_every_member() -> None:
    rows = re.findall(r"^\| ((?:`[a-z]+\.[a-z_]+`(?:, )?)+) \| .+? \| (.+) \|$", KAFKA_DOC, re.MULTILINE)
    told = {name: members_in(cell) for names, cell in rows for name in re.findall(r"`(.+?)`", names)}
    assert told == {name: members_of(event.members.values()) for name, event in UPSTREAM_EVENTS.items()}


def members_of(members: Iterable[Member]) -> set[tuple[tuple[str, ...], bool]]:
    """The names of each, and whether it is needed."""
    return {(member.names, member.is_required) for member in members}


def members_in(cell: str) -> set[tuple[tuple[str, ...], bool]]:
    """The same of a cell: "`a` or `b`, `c`, [`d`, `e`]"."""
    needed, _, optional = cell.partition("[")
    return {
        (tuple(re.findall(r"`(\w+)`", names)), is_needed)
        for part, is_needed in ((needed, True), (optional.rstrip("]"), False))
        for names in part.strip(", ").split(", ")
        if names
    }


def test_the_document_s_example_is_as_published(published: PublishedContract) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", KAFKA_DOC, re.DOTALL)
    assigned = [each for each in ast.parse(code).body if isinstance(each, ast.Assign)]
    told = {ast.unparse(each.targets[0]): ast.literal_eval(each.value) for each in assigned}
    fact, command = told["FACT"], told["COMMAND"]
    assert published.complaint(fact["event"], fact) is None
    assert is_taken(fact["event"], fact["data"])
    assert published.complaint(command["type"], command) is None
