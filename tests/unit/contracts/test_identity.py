"""Ids and positions: no two of them collide, and what was built can be taken apart again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.identity import Realm, parse_stream, stream_id
from contracts.position import Position

part = st.text(alphabet="a1:/%{}25F7BD é-", min_size=1, max_size=12)


@given(part, part, part)
def test_a_stream_id_can_be_taken_apart_again(tenant: str, app: str, key: str) -> None:
    realm = Realm(tenant, app)
    assert parse_stream(stream_id(realm, "coupon", key)) == (realm, "coupon", key)


@given(st.tuples(part, part, part), st.tuples(part, part, part))
def test_no_two_realms_and_keys_meet_in_one_stream(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    same = stream_id(Realm(*one[:2]), "k", one[2]) == stream_id(Realm(*other[:2]), "k", other[2])
    assert same == (one == other)


def test_a_tenant_that_looks_like_two_stays_one() -> None:
    assert stream_id(Realm("acme", "shop:1"), "k", "x") != stream_id(Realm("acme:shop", "1"), "k", "x")
    assert stream_id(Realm("a/b", "c"), "k", "x") != stream_id(Realm("a", "b/c"), "k", "x")


@pytest.mark.parametrize("text", ["", "a/b/c", "a/b/c/d/e"])
def test_what_is_no_stream_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a stream id"):
        parse_stream(text)


@given(st.integers(0, 99), st.text("abcdef0123456789", min_size=1, max_size=12), st.integers(0, 2**62))
def test_a_position_token_can_be_read_back(shard: int, epoch: str, offset: int) -> None:
    position = Position(shard, epoch, offset)
    assert Position.parse(position.token()) == position


@pytest.mark.parametrize("token", ["", "x", "MC5h", "MC5hLi01", "ä", "MC5hLjU==", "../etc"])
def test_a_token_that_we_did_not_make_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="not a position token"):
        Position.parse(token)
