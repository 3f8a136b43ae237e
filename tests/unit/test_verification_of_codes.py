"""Verification's own books of codes: silent on what the rules allow, and each planted violation is named."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from command.domain.code import CODE
from command.domain.coupon import COUPON
from contracts.commands import AssignCodes, VoidCode, VoidCodes
from contracts.events import CodeAssigned, CodeUsed, CouponClaimed
from contracts.identity import escape
from query.verify.books import Books
from query.verify.raw import RawEvent
from tests.gwt import NOON, World, given
from tests.unit.domain.test_code import BATCH, batch, counts, use

REALM = "acme/shop"


def a_day() -> World:
    """Codes that were given out, used, voided one by one and by range."""
    history = [
        *batch(20),
        AssignCodes(batch_id=BATCH, user_ids=("ann", "bob", "cem")),
        use(0, "ann"),
        use(9, "dee"),
        use(10, "dee"),
        VoidCode(batch_id=BATCH, index=1, reason="lost"),
        VoidCode(batch_id=BATCH, index=11, reason="lost"),
        VoidCodes(batch_id=BATCH, first_index=9, last_index=15, reason="lost"),
    ]
    return given(history).world


def books_of(world: World) -> Books:
    versions: Counter[str] = Counter()
    events = []
    for offset, entry in enumerate(world.log, start=1):
        stream = f"{REALM}/{entry.kind}/{escape(entry.key)}"
        versions[stream] += 1
        data: dict[str, Any] = entry.event.model_dump(mode="json")
        place = (offset, stream, versions[stream], entry.event.type, f"e{offset}")
        events.append(RawEvent(*place, "acme", "shop", NOON, NOON, f"cmd-{offset}", data))
    books = Books()
    books.fold(events)
    return books


def found(world: World) -> set[tuple[str, str]]:
    return {(each.invariant, each.subject.removeprefix(f"{REALM}/")) for each in books_of(world).finish()}


def test_a_day_with_codes_holds() -> None:
    world = a_day()
    assert found(world) == set()
    assert counts(world) == {"ASSIGNED": 1, "USED": 3, "VOIDED": 2}


def test_the_counters_of_a_batch_are_checked_against_the_log() -> None:
    world = a_day()
    expected = {key: value for key, value in books_of(world).guard_counters() if "/codes_" in key}
    assert expected == {f"{REALM}/{key}": value for key, value in world.counts.items() if key.startswith("codes_")}


def used(index: int, user: str, coupon_id: str) -> CodeUsed:
    return CodeUsed(batch_id=BATCH, index=index, template_id="t1", user_id=user, coupon_id=coupon_id)


def coupon_of(world: World, index: int) -> str:
    return next(each.coupon_id for each in world.events(CodeUsed) if each.index == index)


def a_code_used_again(world: World) -> tuple[str, str]:
    world.put(CODE, f"{BATCH}.0", used(0, "ann", "c-other"))
    return "I11", f"code/{BATCH}.0@3"


def a_used_code_without_a_coupon(world: World) -> tuple[str, str]:
    world.put(CODE, f"{BATCH}.5", used(5, "ann", "c-none"))
    return "I2", "coupon/c-none"


def a_coupon_without_a_used_code(world: World) -> tuple[str, str]:
    claimed = world.events(CouponClaimed)[0].model_copy(update={"coupon_id": "c-extra", "nth": 9})
    world.put(COUPON, "c-extra", claimed)
    return "I2", "coupon/c-extra"


def two_codes_for_one_coupon(world: World) -> tuple[str, str]:
    world.put(CODE, f"{BATCH}.5", used(5, "ann", coupon_of(world, 0)))
    return "I2", f"code/{BATCH}.5@1"


def a_code_and_a_coupon_that_name_different_users(world: World) -> tuple[str, str]:
    claimed = world.events(CouponClaimed)[0].model_copy(update={"coupon_id": "c-x", "nth": 9})
    world.put(COUPON, "c-x", claimed)
    world.put(CODE, f"{BATCH}.5", used(5, "mallory", "c-x"))
    return "I2", "coupon/c-x"


def a_code_of_a_voided_range_used(world: World) -> tuple[str, str]:
    world.put(CODE, f"{BATCH}.14", used(14, "ann", "c-y"))
    return "I11", f"code/{BATCH}.14@1"


def a_voided_code_used(world: World) -> tuple[str, str]:
    world.put(CODE, f"{BATCH}.1", used(1, "bob", "c-z"))
    return "I11", f"code/{BATCH}.1@3"


def somebody_else_s_code_used(world: World) -> tuple[str, str]:
    world.put(CODE, f"{BATCH}.2", used(2, "mallory", "c-m"))
    return "I11", f"code/{BATCH}.2@2"


def a_code_beyond_its_batch(world: World) -> tuple[str, str]:
    world.put(CODE, f"{BATCH}.20", used(20, "ann", "c-b"))
    return "I10", f"code/{BATCH}.20@1"


def a_code_of_no_batch_of_the_realm(world: World) -> tuple[str, str]:
    assigned = CodeAssigned(batch_id="k9-9", index=0, template_id="t1", user_id="ann")
    world.put(CODE, "k9-9.0", assigned)
    return "I10", "code/k9-9.0@1"


PLANTS = [
    a_code_used_again,
    a_used_code_without_a_coupon,
    a_coupon_without_a_used_code,
    two_codes_for_one_coupon,
    a_code_and_a_coupon_that_name_different_users,
    a_code_of_a_voided_range_used,
    a_voided_code_used,
    somebody_else_s_code_used,
    a_code_beyond_its_batch,
    a_code_of_no_batch_of_the_realm,
]


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_violation_is_named(plant: Callable[[World], tuple[str, str]]) -> None:
    world = a_day()
    named = plant(world)
    assert named in found(world)


def test_a_batch_that_ended_is_not_used_any_more() -> None:
    world = given(batch(5, hours=1)).world
    world.wait(hours=2)
    world.put(CODE, f"{BATCH}.0", used(0, "ann", "c-late"))
    books = books_of_at_end(world)
    assert ("I11", f"code/{BATCH}.0@1") in {(v.invariant, v.subject.removeprefix(f"{REALM}/")) for v in books.finish()}


def books_of_at_end(world: World) -> Books:
    """As books_of, the last event at the world's own time."""
    books = books_of(World(log=world.log[:-1]))
    last = world.log[-1]
    data = last.event.model_dump(mode="json")
    stream = f"{REALM}/{last.kind}/{last.key}"
    event = RawEvent(99, stream, 1, last.event.type, "e99", "acme", "shop", world.now, world.now, "cmd-99", data)
    books.fold([event])
    return books
