"""The published schemas are what the code says, and what the API does is in its document."""

import json
from pathlib import Path

from contracts.commands import ALL_COMMANDS
from contracts.events import ALL_EVENTS
from infra import schemas


def test_the_published_schemas_are_those_of_the_code() -> None:
    assert schemas.differences() == [], "run `python -m infra.schemas write` and look at what changed"


def test_every_event_and_command_is_published() -> None:
    assert {f"events/{event.type}.json" for event in ALL_EVENTS} <= schemas.generated().keys()
    assert {f"commands/{command.type}.json" for command in ALL_COMMANDS} <= schemas.generated().keys()


def test_a_difference_is_named(tmp_path: Path) -> None:
    schemas.write(tmp_path)
    assert schemas.differences(tmp_path) == []
    (tmp_path / "events" / "coupon.claimed.v1.json").write_text("{}\n")
    (tmp_path / "events" / "coupon.eaten.v1.json").write_text("{}\n")
    (tmp_path / "openapi.json").unlink()
    assert schemas.differences(tmp_path) == [
        "differs from the code: events/coupon.claimed.v1.json",
        "missing: openapi.json",
        "not generated: events/coupon.eaten.v1.json",
    ]
    assert schemas.main(["check"]) in {0, 1}
    schemas.write(tmp_path)
    assert schemas.differences(tmp_path) == []


def test_the_openapi_document_holds_together() -> None:
    document = json.loads(schemas.generated()["openapi.json"])
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids) > 40
    assert all(operation["x-scope"] for operation in operations)
    text = schemas.generated()["openapi.json"]
    referred = {piece.split('"')[0] for piece in text.split("#/components/schemas/")[1:]}
    assert referred <= document["components"]["schemas"].keys()


def test_command_bodies_refuse_unknown_fields_and_leave_out_what_the_path_says() -> None:
    document = json.loads(schemas.generated()["openapi.json"])
    body = document["components"]["schemas"]["ClaimCouponBody"]
    assert body["additionalProperties"] is False
    assert set(body["properties"]) == {"user_id", "channel", "reference"}
    claim = document["paths"]["/v1/templates/{template_id}/claims"]["post"]
    assert [parameter["name"] for parameter in claim["parameters"] if parameter["in"] == "path"] == ["template_id"]
