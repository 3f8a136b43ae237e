"""Buckets are written whole, as they were seen or not at all; checkpoints move only from where the writer saw them."""

import pytest

from contracts.identity import Realm
from contracts.position import Position
from contracts.read_models import bucket_key, list_key
from infra.redis.connection import RedisUnavailable, connect
from infra.redis.models import BucketDamaged, CheckpointLost, ModelStore
from projections.catalog import READ_MODELS
from projections.model import Document, Entry, Place
from tests.unit.projections.stories import ACME

WALLET = READ_MODELS["wallet"]
C1, C2 = Place(ACME, "u1", "c1"), Place(ACME, "u1", "c2")
START = Position(0, "e1", 0)


def entry(first: int, status: str) -> Entry:
    return Entry(first, {"coupon/c": first}, {"status": status})


@pytest.fixture
def store(redis_url: str) -> ModelStore:
    store = ModelStore(connect(redis_url), WALLET)
    store.begin(1, START)
    return store


def put(store: ModelStore, version: int, offset: int, entries: dict[Place, Entry]) -> None:
    """Write on top of whatever is there."""
    assert store.write(version, offset, entries, store.load(version, entries))


def documents(store: ModelStore, version: int, *places: Place) -> dict[str, Document]:
    return {place.field: entry.document for place, entry in store.load(version, places).entries.items()}


def test_what_is_written_is_what_is_read(store: ModelStore) -> None:
    put(store, 1, 10, {C1: entry(3, "claimed"), C2: entry(5, "locked")})
    found = store.load(1, [C1, C2, Place(ACME, "u2", "c1")])
    assert found.entries == {C1: entry(3, "claimed"), C2: entry(5, "locked")}


def test_of_two_writers_who_saw_the_same_bucket_the_second_looks_again(store: ModelStore) -> None:
    put(store, 1, 10, {C1: entry(3, "claimed")})
    first, second = store.load(1, [C1, C2]), store.load(1, [C1, C2])
    assert store.write(1, 15, {C1: entry(3, "locked")}, first)
    assert not store.write(1, 12, {C2: entry(4, "claimed")}, second)
    # An earlier offset is no reason to keep anybody out, nor does it hide that something was written.
    third, fourth = store.load(1, [C1, C2]), store.load(1, [C1, C2])
    assert store.write(1, 12, {C2: entry(4, "claimed")}, third)
    assert not store.write(1, 15, {C2: entry(4, "revoked")}, fourth)
    assert documents(store, 1, C1, C2) == {"c1": {"status": "locked"}, "c2": {"status": "claimed"}}


def test_what_a_writer_saw_later_does_not_vouch_for_what_it_saw_before(store: ModelStore) -> None:
    put(store, 1, 10, {C1: entry(3, "claimed")})
    seen = store.load(1, [C1])
    put(store, 1, 11, {C1: entry(3, "locked")})
    seen.add(store.load(1, [C2]))
    assert not store.write(1, 12, {C1: entry(3, "revoked")}, seen)


def test_a_document_that_begins_is_written_unseen_only_where_there_is_none(store: ModelStore) -> None:
    begun = store.load(1, [C1, C2], begun={C1, C2})
    assert begun.stamps == {}, "nothing was looked at"
    assert store.write(1, 10, {C1: entry(3, "claimed")}, begun)
    assert store.write(1, 11, {C2: entry(4, "claimed")}, begun)
    assert not store.write(1, 12, {C1: entry(3, "revoked")}, begun)
    assert documents(store, 1, C1, C2) == {"c1": {"status": "claimed"}, "c2": {"status": "claimed"}}
    assert store.load(1, [C1, C2], begun={C2}).entries.keys() == {C1, C2}, "a bucket is looked at as a whole"


def test_one_bucket_that_somebody_else_wrote_does_not_hold_up_the_others(store: ModelStore) -> None:
    other = Place(ACME, "u2", "c9")
    seen = store.load(1, [C1, other])
    put(store, 1, 10, {C1: entry(3, "locked")})
    assert not store.write(1, 9, {C1: entry(3, "claimed"), other: entry(4, "claimed")}, seen)
    assert documents(store, 1, C1, other) == {"c1": {"status": "locked"}, "c9": {"status": "claimed"}}


def test_a_checkpoint_moves_only_from_where_it_was_seen(store: ModelStore) -> None:
    here, there = START._replace(offset=5), START._replace(offset=9)
    store.advance(1, START, here)
    with pytest.raises(CheckpointLost, match="wallet v1"):
        store.advance(1, START, there)
    assert store.control().checkpoints == {1: here}
    with pytest.raises(CheckpointLost):
        store.activate(1, START)
    assert store.control().active is None
    store.activate(1, here)
    assert (store.control().active, store.control().ready_at) == (1, 5)


def at(offset: int) -> Position:
    return START._replace(offset=offset)


def test_lanes_move_only_from_where_they_were_seen_and_the_checkpoint_is_where_the_last_one_is(
    store: ModelStore,
) -> None:
    lanes = ["coupon-event-topic/0", "coupon-event-topic/1"]
    store.begin_lanes(1, START, lanes)
    assert store.move_lanes(1, {lanes[0]: (START, at(7)), lanes[1]: (START, at(4))}, lanes) == at(4)
    with pytest.raises(CheckpointLost, match="coupon-event-topic/0, coupon-event-topic/1"):
        store.move_lanes(1, {lanes[0]: (at(7), at(9)), lanes[1]: (START, at(3))}, lanes)
    with pytest.raises(CheckpointLost):
        store.begin_lanes(1, START, lanes)
    store.begin_lanes(1, at(4), [*lanes, "coupon-event-topic/2"])
    control = store.control()
    assert control.checkpoints == {1: at(4)}
    assert control.lanes == {1: {lanes[0]: at(7), lanes[1]: at(4), "coupon-event-topic/2": at(4)}}
    # A checkpoint that moves by itself leaves no lane behind it.
    store.advance(1, at(4), at(20), control.lanes[1])
    assert (store.control().checkpoints, store.control().lanes) == ({1: at(20)}, {})
    with pytest.raises(CheckpointLost):
        store.move_lanes(1, {lanes[0]: (at(7), at(8))}, lanes)


def test_a_flushed_checkpoint_does_not_come_back_by_itself(store: ModelStore, redis_url: str) -> None:
    connect(redis_url).flushdb()
    with pytest.raises(CheckpointLost):
        store.advance(1, START, START._replace(offset=5))
    assert store.control().newest == 0


def test_a_new_version_begins_without_what_was_left_under_its_name(store: ModelStore) -> None:
    put(store, 2, 10, {C1: entry(3, "locked")})
    put(store, 1, 10, {C1: entry(3, "claimed")})
    store.begin(2, START)
    assert documents(store, 2, C1) == {}
    assert documents(store, 1, C1)["c1"] == {"status": "claimed"}


def test_versions_do_not_see_each_other_even_when_one_number_begins_another(store: ModelStore) -> None:
    put(store, 1, 10, {C1: entry(3, "claimed")})
    put(store, 11, 10, {C1: entry(3, "locked")})
    assert store.checksum(1) != store.checksum(11)
    store.begin(1, START)
    assert documents(store, 11, C1)["c1"] == {"status": "locked"}


def test_a_bucket_without_a_position_or_of_another_hand_is_damaged(store: ModelStore, redis_url: str) -> None:
    put(store, 1, 10, {C1: entry(3, "claimed")})
    client = connect(redis_url)
    bucket = bucket_key("wallet", 1, ACME, "u1")
    client.hset(bucket, "c1", "{}")
    with pytest.raises(BucketDamaged, match="rebuild wallet"):
        store.load(1, [C1])
    client.hdel(bucket, "_pos")
    with pytest.raises(BucketDamaged, match="no position"):
        store.load(1, [C1])


def test_a_checksum_sees_every_field_value_and_place_in_the_list_but_no_batches(
    store: ModelStore, redis_url: str
) -> None:
    put(store, 1, 10, {C1: entry(3, "claimed"), C2: entry(5, "claimed")})
    put(store, 2, 7, {C2: entry(5, "claimed")})
    put(store, 2, 99, {C1: entry(3, "claimed")})
    healthy = store.checksum(1)
    assert store.checksum(2) == healthy
    assert healthy.documents == 2
    client = connect(redis_url)
    client.zadd(list_key(bucket_key("wallet", 1, ACME, "u1")), {"c1": 4})
    assert store.checksum(1) != healthy
    put(store, 2, 100, {C1: entry(3, "locked")})
    assert store.checksum(2) != healthy
    assert store.checksum(2).documents == 2


def test_all_keys_of_a_bucket_share_one_slot_and_realms_never_do() -> None:
    bucket = bucket_key("wallet", 1, Realm("a}b", "c/d"), "u{1}")
    assert bucket == "wallet:v1:{a%7Db/c%2Fd/u%7B1%7D}"
    assert list_key(bucket).startswith(bucket)
    assert bucket_key("wallet", 1, Realm("a", "b/c"), "d") != bucket_key("wallet", 1, Realm("a/b", "c"), "d")


def test_a_redis_that_is_away_is_unavailable() -> None:
    store = ModelStore(connect("redis://127.0.0.1:1/0"), WALLET)
    for call in (store.control, lambda: store.load(1, [C1]), lambda: store.checksum(1), lambda: store.begin(1, START)):
        with pytest.raises(RedisUnavailable):
            call()
