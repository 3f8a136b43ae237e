"""Read models are folded once in effect, whatever is delivered twice, and show what the log says."""

import copy
from collections.abc import Sequence

import pytest

from contracts.envelope import Recorded
from contracts.events import ALL_EVENTS, CouponClaimed, RefundSucceeded
from contracts.events.base import Event
from contracts.identity import Realm
from contracts.read_models import MODELS
from projections.catalog import READ_MODELS
from projections.model import Document, Entry, GapInStream, Place, ReadModel, apply_once
from tests.unit.projections.stories import ACME, Story, about, claimed, everything, locked

MODEL_LIST = list(READ_MODELS.values())
# No read model shows these: facts do, or nobody needs to.
SHOWN_NOWHERE = {
    "refusals.counted.v1",
    "break.opened.v1",
    "break.closed.v1",
    "import.rows_set_aside.v1",
    "code.assigned.v1",
    "code.used.v1",
    "code.voided.v1",
    "code_batch.assigned.v1",
    "code_batch.generated.v1",
    "code_batch.voided.v1",
    "distribution.advanced.v1",
    "distribution.cancelled.v1",
    "distribution.completed.v1",
    "distribution.paused.v1",
    "distribution.resumed.v1",
    "distribution.started.v1",
    "distribution.users_refused.v1",
    "borrowing.answered.v1",
    "borrowing.asked.v1",
    "borrowing.began.v1",
    "borrowing.postponed.v1",
    "borrowing.told.v1",
    "loan.answered.v1",
    "loan.changed.v1",
}


def fold(model: ReadModel, events: Sequence[Recorded], entries: dict[Place, Entry] | None = None) -> dict[Place, Entry]:
    """What a store would hold after these events."""
    entries = dict(entries or {})
    for recorded in events:
        if recorded.name.kind in model.kinds:
            for place in model.route(recorded):
                if (entry := apply_once(model, entries.get(place), recorded)) is not None:
                    entries[place] = entry
    return entries


def documents(model: ReadModel, events: Sequence[Recorded]) -> dict[tuple[str | None, str], Document]:
    return {(place.key, place.field): entry.document for place, entry in fold(model, events).items()}


def test_the_catalog_has_every_model_that_readers_know() -> None:
    assert set(READ_MODELS) == set(MODELS)


def test_the_story_has_every_event_type() -> None:
    assert {type(recorded.event) for recorded in everything()} == set(ALL_EVENTS)


def test_every_event_is_heard_by_a_model_or_knowingly_by_none() -> None:
    heard = {
        recorded.event.type
        for model in MODEL_LIST
        for recorded in everything()
        if recorded.name.kind in model.kinds and model.route(recorded)
    }
    assert heard == {event.type for event in ALL_EVENTS} - SHOWN_NOWHERE


@pytest.mark.parametrize("model", MODEL_LIST, ids=lambda model: model.name)
@pytest.mark.parametrize("size", [1, 3, 7, 1_000])
def test_overlapping_and_repeated_batches_change_nothing(model: ReadModel, size: int) -> None:
    log = everything()
    once = fold(model, log)
    assert once, "the story says nothing to this model"
    again: dict[Place, Entry] = {}
    for start in range(0, len(log), size):
        again = fold(model, log[max(0, start - 5) : start + size], again)
        again = fold(model, log[start : start + size], again)
    assert fold(model, log, again) == again == once


@pytest.mark.parametrize("model", MODEL_LIST, ids=lambda model: model.name)
def test_a_fold_leaves_the_document_that_it_was_given_alone(model: ReadModel) -> None:
    entries: dict[Place, Entry] = {}
    for recorded in everything():
        if recorded.name.kind not in model.kinds:
            continue
        before = copy.deepcopy(entries)
        after = fold(model, [recorded], entries)
        assert entries == before
        entries = after


@pytest.mark.parametrize("model", MODEL_LIST, ids=lambda model: model.name)
def test_a_missing_version_stops_the_model_and_is_named(model: ReadModel) -> None:
    log = [each for each in everything() if each.name.kind in model.kinds - model.partial]
    streams = [each.stream for each in log]
    second = next(each for each in log if each.version == 2 and streams.count(each.stream) > 2)
    with pytest.raises(GapInStream, match=f"{second.stream}.*version 3.*version 2 was never"):
        fold(model, [each for each in log if each != second])


def test_a_refund_may_name_its_order_only_later() -> None:
    story = Story()
    refund = RefundSucceeded(refund_id="f1", order_id=None, amount_minor=5, currency="GBP")
    story.tell("refund", "f1", refund)
    story.tell("refund", "f1", refund.model_copy(update={"order_id": "o1"}))
    (order,) = documents(READ_MODELS["order"], story.log).values()
    assert order["refunds"]["f1"]["amount_minor"] == 5


def test_an_order_tells_what_an_operator_ended_of_it_and_why() -> None:
    order = next(each for each in documents(READ_MODELS["order"], everything()).values() if each["order_id"] == "o1")
    last = order["saga"]["why"][-1]
    assert (last["fact"], last["reason"], last["step"]) == ("saga.resolved.v1", "by hand", order["saga"]["step"])
    assert [(each["command"], each["code"]) for each in last["ended"]] == [("refund_for_order", "currency_mismatch")]


def test_an_order_is_the_same_in_whatever_order_its_streams_meet() -> None:
    model = READ_MODELS["order"]
    log = everything()
    by_stream = sorted(log, key=lambda each: (each.name.kind, each.stream, each.version))
    assert documents(model, by_stream) == documents(model, log)


def test_a_wallet_and_the_coupons_tell_the_same() -> None:
    log = everything()
    of_users = {field: doc for (_, field), doc in documents(READ_MODELS["wallet"], log).items()}
    of_coupons = {key: doc for (key, _), doc in documents(READ_MODELS["coupon"], log).items()}
    assert of_users == of_coupons
    assert {key: doc["status"] for key, doc in of_coupons.items()} == {
        "c1": "claimed",
        "c2": "claimed",
        "c3": "expired",
        "c4": "revoked",
        "c5": "redeemed",
        "c6": "claimed",
        "c7": "claimed",
    }


def test_a_budget_of_a_month_is_kept_per_month() -> None:
    budget = documents(READ_MODELS["budget"], everything())["b2", "doc"]
    assert budget["periods"]["2026-03"] == {
        "limit_minor": 10_000,
        "reserved_minor": 0,
        "committed_minor": 700,
        "credited_minor": 0,
        "available_minor": 9_300,
        "thresholds_percent": [50],
    }


def test_realms_that_look_alike_do_not_share_a_bucket() -> None:
    one = Story(Realm("acme", "shop:1"))
    two = Story(Realm("acme:shop", "1"))
    for story in (one, two):
        story.tell("coupon", "c1", claimed("c1", about()))
    wallet = READ_MODELS["wallet"]
    assert not fold(wallet, one.log).keys() & fold(wallet, two.log).keys()


def test_an_event_without_a_beginning_is_an_error_not_an_empty_document() -> None:
    story = Story()
    story.tell("coupon", "c1", locked("c1", about(), "o1"))
    with pytest.raises(ValueError, match="nothing to change"):
        fold(READ_MODELS["coupon"], story.log)


def test_an_event_that_is_no_coupon_event_has_no_wallet() -> None:
    story = Story(ACME)
    story.tell("coupon", "c1", RefundSucceeded(refund_id="f1", order_id=None, amount_minor=5, currency="GBP"))
    with pytest.raises(ValueError, match="whose coupon"):
        fold(READ_MODELS["wallet"], story.log)


def test_every_event_class_is_an_event() -> None:
    assert all(issubclass(event, Event) for event in ALL_EVENTS)
    assert CouponClaimed in ALL_EVENTS
