"""Every event that was ever written can be read: one full example of each, and released examples never change."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, ValidationError

from contracts.events import ALL_EVENTS
from contracts.events.base import Event
from contracts.registry import EVENTS, UPCASTERS, EventRegistry, Payload, UnknownEventType
from infra import schemas
from tests.golden.release import FOLDER, RELEASED, golden_files, released

NAMES = sorted(event.type for event in ALL_EVENTS)


def text_of(name: str) -> str:
    """The golden example of an event."""
    return (FOLDER / f"{name}.json").read_text()


def example(name: str) -> Event:
    """The same, as the log is read."""
    return EVENTS.load(name, json.loads(text_of(name)))


def test_every_event_has_an_example_and_every_example_an_event() -> None:
    examples = {path.stem for path in golden_files()}
    assert examples - EVENTS.names == set(UPCASTERS) & examples, "an example of an event that nobody can read"
    assert EVENTS.names - examples == set(), "an event without an example"


@pytest.mark.parametrize("name", NAMES)
def test_todays_code_reads_the_example_and_writes_it_back(name: str) -> None:
    event = example(name)
    assert json.loads(event.model_dump_json(exclude_unset=True)) == json.loads(text_of(name))


@pytest.mark.parametrize("name", sorted(set(NAMES) - released().keys()))
def test_an_example_shows_every_field_until_it_is_released(name: str) -> None:
    # Afterwards the event may gain optional fields, which the example shows how to do without.
    event = example(name)
    assert missing_fields(event) == []


@pytest.mark.parametrize("name", NAMES)
def test_an_event_ignores_fields_that_it_does_not_know(name: str) -> None:
    payload = {**json.loads(text_of(name)), "from_the_future": 1}
    assert EVENTS.load(name, payload) == example(name)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_fits_its_published_schema(name: str) -> None:
    import jsonschema

    schema = json.loads((schemas.FOLDER / "events" / f"{name}.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(json.loads(text_of(name)))


def test_a_released_example_was_not_edited() -> None:
    edited = [
        name
        for name, digest in released().items()
        if hashlib.sha256((FOLDER / f"{name}.json").read_bytes()).hexdigest() != digest
    ]
    assert edited == [], "a released example is what the log holds: add a new version and an upcaster instead"


def test_a_release_is_never_taken_back() -> None:
    root = Path(__file__).resolve().parents[2]
    listed = str(RELEASED.relative_to(root))
    commits = _git(root, "log", "--format=%H", "--", listed)
    if commits is None:
        pytest.skip("NOT CHECKED: no history here, so nobody can tell whether a release was taken back")
    now = set(RELEASED.read_text().splitlines())
    for commit in commits.split():
        then = set((_git(root, "show", f"{commit}:{listed}") or "").splitlines())
        assert then <= now, f"released at {commit[:10]} and gone now: {sorted(then - now)}"


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout


def missing_fields(value: object, at: str = "") -> list[str]:
    """Paths of fields that were not set, anywhere inside."""
    if isinstance(value, BaseModel):
        unset = [f"{at}/{name}" for name in type(value).model_fields if name not in value.model_fields_set]
        return unset + [
            each for name in value.model_fields_set for each in missing_fields(getattr(value, name), f"{at}/{name}")
        ]
    if isinstance(value, tuple):
        return [each for index, item in enumerate(value) for each in missing_fields(item, f"{at}/{index}")]
    return []


# Upcasting, with an event that was once different.


class Thawed(Event):
    """The third way to say it: minor units, and whose it is."""

    type: ClassVar[str] = "test.thawed.v3"

    coupon_id: str
    amount_minor: int
    currency: str


def lift_v1(payload: Payload) -> tuple[str, Payload]:
    """The first version had an amount in major units."""
    return "test.thawed.v2", {"coupon_id": payload["coupon_id"], "amount_minor": int(payload["amount"]) * 100}


def lift_v2(payload: Payload) -> tuple[str, Payload]:
    """The second version had no currency: everything was in euros."""
    return "test.thawed.v3", {**payload, "currency": "EUR"}


REGISTRY = EventRegistry((Thawed,), {"test.thawed.v1": lift_v1, "test.thawed.v2": lift_v2})


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("test.thawed.v1", {"coupon_id": "c1", "amount": "5"}),
        ("test.thawed.v2", {"coupon_id": "c1", "amount_minor": 500}),
        ("test.thawed.v3", {"coupon_id": "c1", "amount_minor": 500, "currency": "EUR"}),
    ],
)
def test_former_versions_are_lifted_step_by_step(name: str, payload: dict[str, Any]) -> None:
    assert REGISTRY.load(name, payload) == Thawed(coupon_id="c1", amount_minor=500, currency="EUR")


def test_a_version_that_nobody_knows_is_an_error_and_no_guess() -> None:
    with pytest.raises(UnknownEventType, match="written by a newer version"):
        REGISTRY.load("test.thawed.v4", {"coupon_id": "c1"})


def test_a_lifted_payload_is_validated_like_any_other() -> None:
    with pytest.raises(ValidationError):
        REGISTRY.load("test.thawed.v2", {"coupon_id": "c1"})


def test_upcasters_that_lead_in_a_circle_end() -> None:
    circle = EventRegistry((), {"a.v1": lambda payload: ("b.v1", payload), "b.v1": lambda payload: ("a.v1", payload)})
    with pytest.raises(UnknownEventType):
        circle.load("a.v1", {})


def test_one_name_cannot_be_current_and_former() -> None:
    with pytest.raises(ValueError, match="both current and former"):
        EventRegistry((Thawed,), {"test.thawed.v3": lift_v2})
