"""Keys of codes in PostgreSQL: one per realm at first, rotated, deleted for good, and in nobody else's reach."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from contracts.identity import Realm
from infra.postgres import code_keys
from infra.postgres.connections import transaction

ACME, GLOBEX = Realm("acme", "shop"), Realm("globex", "shop")


def test_a_realm_gets_one_key_however_many_ask_at_once(postgres_dsn: str) -> None:
    def ask(_: int) -> str:
        with transaction(postgres_dsn, name="test") as cursor:
            return code_keys.present(cursor, ACME)

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(ask, range(8))) == {"k1"}
    with transaction(postgres_dsn, name="test") as cursor:
        assert [key.key_id for key in code_keys.every(cursor, ACME)] == ["k1"]
        assert code_keys.every(cursor, GLOBEX) == []


def test_a_deleted_key_is_gone_and_its_name_is_never_given_again(postgres_dsn: str) -> None:
    with transaction(postgres_dsn, name="test") as cursor:
        assert code_keys.present(cursor, ACME) == "k1"
        (first,) = code_keys.every(cursor, ACME)
        assert code_keys.rotate(cursor, ACME) == code_keys.present(cursor, ACME) == "k2"
        assert not code_keys.delete(cursor, GLOBEX, "k1")
        assert code_keys.delete(cursor, ACME, "k1")
        assert not code_keys.delete(cursor, ACME, "k1")
        assert code_keys.delete(cursor, ACME, "k2")
        assert code_keys.present(cursor, ACME) == "k3"
        secrets = [key.secret for key in code_keys.every(cursor, ACME)]
    assert secrets[1:] == [None, None]
    assert secrets[0] not in {None, first.secret}
    assert repr(first.secret) not in repr(first)


@pytest.mark.parametrize("key_id", ["", "k", "1", "k0", "k1x", "k99999999999", "k٣"])
def test_what_names_no_key_deletes_nothing(postgres_dsn: str, key_id: str) -> None:
    with transaction(postgres_dsn, name="test") as cursor:
        code_keys.present(cursor, ACME)
        assert not code_keys.delete(cursor, ACME, key_id)


def test_keys_are_bounded_for_each_is_tried_on_every_code(postgres_dsn: str) -> None:
    with transaction(postgres_dsn, name="test") as cursor:
        for _ in range(code_keys.KEYS_MAX):
            code_keys.rotate(cursor, ACME)
        with pytest.raises(code_keys.TooManyKeys, match="acme/shop has 16 keys"):
            code_keys.rotate(cursor, ACME)
