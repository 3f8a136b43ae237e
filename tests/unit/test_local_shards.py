"""The shards of a local stack: as many as a folder was made for, with slots that lie evenly on them."""

from pathlib import Path

import pytest

from contracts.placement import SLOTS, Placement
from infra.local_shards import OtherShards, even_slots, placed, remember, shards_of
from infra.settings import Settings

ADDRESSES = {"redis_url": "redis://127.0.0.1:6379/0", "clickhouse_url": "http://127.0.0.1:8123/tessera"}
ZERO, ONE = "postgresql://127.0.0.1/zero", "postgresql://127.0.0.1/one"


@pytest.mark.parametrize("shards", [1, 2, 3, 4])
def test_every_slot_lies_on_one_shard_and_no_shard_has_two_more_than_another(shards: int) -> None:
    (slots,) = Placement.of(range(shards), spread={"demo": even_slots(shards)}).spread.values()
    counts = [list(slots).count(shard) for shard in range(shards)]
    assert (sum(counts), max(counts) - min(counts) <= 1) == (SLOTS, True)


def test_a_new_folder_gets_the_shards_that_are_wished_and_keeps_them(tmp_path: Path) -> None:
    assert shards_of(tmp_path, None, is_new=True) == 1
    assert shards_of(tmp_path, 2, is_new=True) == 2
    remember(tmp_path, 2)
    assert [shards_of(tmp_path, wished, is_new=False) for wished in (None, 2)] == [2, 2]
    with pytest.raises(OtherShards, match="was made for 2 shards; slots cannot be moved to one shard"):
        shards_of(tmp_path, 1, is_new=False)


def test_a_folder_of_before_there_were_shards_has_one(tmp_path: Path) -> None:
    assert shards_of(tmp_path, None, is_new=False) == 1
    with pytest.raises(OtherShards):
        shards_of(tmp_path, 2, is_new=False)


def test_tenants_that_somebody_placed_stay_there() -> None:
    two = Settings.load(postgres_dsn=ZERO, shard_dsns={1: ONE}, **ADDRESSES)
    assert placed(two, "demo").spread_tenants == {"demo": {0: "0-511", 1: "512-1023"}}
    own = Settings.load(postgres_dsn=ZERO, shard_dsns={1: ONE}, tenant_shards={"acme": 1}, **ADDRESSES)
    assert placed(own, "demo") is own
    one = Settings.load(postgres_dsn=ZERO, **ADDRESSES)
    assert placed(one, "demo") is one
