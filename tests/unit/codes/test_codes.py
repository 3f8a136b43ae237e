"""A code opens to what was sealed and to nothing else; what people mistype is noticed by the check symbol."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.codes import BATCH_NUMBER_MAX, CODES_PER_BATCH_MAX
from contracts.identity import Realm
from infra.codes import text
from infra.codes.sealer import RUN_CODES_MAX, Opened, Sealer, runs

ACME, GLOBEX = Realm("acme", "shop"), Realm("globex", "shop")
SECRET = bytes(range(32))
SEALER = Sealer.of(ACME, "k1", SECRET)

numbers = st.integers(0, BATCH_NUMBER_MAX)
indices = st.integers(0, CODES_PER_BATCH_MAX - 1)
symbol_lists = st.lists(st.integers(0, 31), min_size=16, max_size=16)


def opened(code: str, sealer: Sealer = SEALER) -> Opened | None:
    symbols = text.read(code)
    return None if symbols is None else sealer.open(symbols)


@given(numbers, indices)
def test_a_code_opens_to_its_batch_and_index(number: int, index: int) -> None:
    assert opened(SEALER.seal(number, index)) == Opened(number, index)


@given(numbers, st.integers(0, CODES_PER_BATCH_MAX - 50), st.integers(1, 50))
def test_a_run_is_the_codes_one_by_one(number: int, first: int, count: int) -> None:
    assert SEALER.seal_run(number, first, count) == [SEALER.seal(number, first + nth) for nth in range(count)]


def test_no_two_of_many_codes_are_the_same_and_neighbours_look_unrelated() -> None:
    codes = [
        code for number in (1, 2) for first, count in runs(0, 50_000) for code in SEALER.seal_run(number, first, count)
    ]
    assert len(set(codes)) == len(codes) == 100_000
    first, second = text.read(codes[0]), text.read(codes[1])
    assert first is not None
    assert second is not None
    assert sum(one == other for one, other in zip(first, second, strict=True)) < 6


def test_every_symbol_is_about_as_frequent_as_any_other_at_every_place() -> None:
    codes = SEALER.seal_run(1, 0, RUN_CODES_MAX)
    for place in (place for place in range(20) if codes[0][place] != "-"):
        counts = [sum(code[place] == letter for code in codes) for letter in text.ALPHABET]
        assert sum(counts) == RUN_CODES_MAX
        assert 150 < min(counts) < max(counts) < 370  # 256 expected, a deviation of 16: nothing is 6 of them away.


@given(numbers, indices)
def test_another_key_and_another_realm_open_nothing(number: int, index: int) -> None:
    code = SEALER.seal(number, index)
    assert opened(code, Sealer.of(ACME, "k2", bytes(32))) is None
    assert opened(code, Sealer.of(GLOBEX, "k1", SECRET)) is None


@given(symbol_lists)
def test_random_codes_with_a_right_check_symbol_open_nothing(symbols: list[int]) -> None:
    assert SEALER.open(symbols) is None


@given(symbol_lists)
def test_symbols_survive_being_written_and_read(symbols: list[int]) -> None:
    assert text.read(text.write(symbols)) == symbols


@given(symbol_lists, st.integers(0, 16), st.integers(1, 31))
def test_any_one_wrong_symbol_is_caught(symbols: list[int], place: int, by: int) -> None:
    letters = text.write(symbols).replace("-", "")
    wrong = text.ALPHABET[(text.ALPHABET.index(letters[place]) + by) % 32]
    assert text.read(letters[:place] + wrong + letters[place + 1 :]) is None


@given(symbol_lists, st.integers(0, 16), st.integers(0, 16))
def test_any_two_swapped_symbols_are_caught(symbols: list[int], one: int, other: int) -> None:
    letters = list(text.write(symbols).replace("-", ""))
    before = "".join(letters)
    letters[one], letters[other] = letters[other], letters[one]
    after = "".join(letters)
    assert text.read(after) == (symbols if after == before else None)


@given(symbol_lists, st.integers(0, 15), st.integers(1, 31))
def test_a_mistyped_pair_of_equal_neighbours_is_caught(symbols: list[int], place: int, by: int) -> None:
    symbols[min(place + 1, 15)] = symbols[place]
    letters = text.write(symbols).replace("-", "")
    if letters[place] == letters[place + 1]:
        wrong = text.ALPHABET[(text.ALPHABET.index(letters[place]) + by) % 32]
        assert text.read(letters[:place] + wrong * 2 + letters[place + 2 :]) is None


def test_people_may_type_it_as_they_like() -> None:
    symbols = [0, 1, 10, 31, *([7] * 12)]
    written = text.write(symbols)
    assert written.startswith("01AZ-7777-7777-7777")
    for typed in (
        written.lower(),
        written.replace("-", ""),
        written.replace("-", " "),
        "oi" + written[2:],
        "OL" + written[2:],
    ):
        assert text.read(typed) == symbols


@pytest.mark.parametrize(
    "typed", ["", "-", "0" * 16, "0" * 18, "U" * 17, "é" * 17, "٣" * 17, "0" * 1_000_000, "0" * 16 + "\x00"]
)
def test_what_is_no_code_is_told_at_once(typed: str) -> None:
    assert text.read(typed) is None


def test_a_sealer_tells_nobody_its_secret() -> None:
    assert SECRET.hex() not in repr(SEALER)
    assert repr(SECRET) not in repr(SEALER)
