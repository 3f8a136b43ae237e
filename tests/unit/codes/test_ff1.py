"""FF1 does what NIST's published samples for SP 800-38G say, and the bulk path does what FF1 does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.codes.bulk import encrypt_run
from infra.codes.ff1 import Ff1

KEY = bytes.fromhex("2B7E151628AED2A6ABF7158809CF4F3CEF4359D8D580AA4F7F036D6F04FC6A94")
DIGITS = "0123456789"
TWEAK_10 = bytes.fromhex("39383736353433323130")
TWEAK_11 = bytes.fromhex("3737373770717273373737")

# FF1samples.pdf: key bytes, radix, tweak, plaintext, ciphertext.
SAMPLES = [
    (16, 10, b"", DIGITS, "2433477484"),
    (16, 10, TWEAK_10, DIGITS, "6124200773"),
    (16, 36, TWEAK_11, "0123456789abcdefghi", "a9tv40mll9kdu509eum"),
    (24, 10, b"", DIGITS, "2830668132"),
    (24, 10, TWEAK_10, DIGITS, "2496655549"),
    (24, 36, TWEAK_11, "0123456789abcdefghi", "xbj3kv35jrawxv32ysr"),
    (32, 10, b"", DIGITS, "6657667009"),
    (32, 10, TWEAK_10, DIGITS, "1001623463"),
    (32, 36, TWEAK_11, "0123456789abcdefghi", "xs8a0azh2avyalyzuwd"),
]


@pytest.mark.parametrize(("key_bytes", "radix", "tweak", "plain", "cipher"), SAMPLES)
def test_the_published_samples_hold_both_ways(
    key_bytes: int, radix: int, tweak: bytes, plain: str, cipher: str
) -> None:
    ff1 = Ff1(KEY[:key_bytes], radix, tweak)
    numerals, expected = [int(each, 36) for each in plain], [int(each, 36) for each in cipher]
    assert ff1.encrypt(numerals) == expected
    assert ff1.decrypt(expected) == numerals


@given(key=st.binary(min_size=32, max_size=32), tweak=st.binary(max_size=40), data=st.data())
def test_decrypting_undoes_encrypting_for_any_radix_and_length(key: bytes, tweak: bytes, data: st.DataObject) -> None:
    radix = data.draw(st.integers(2, 1_000))
    numerals = data.draw(st.lists(st.integers(0, radix - 1), min_size=20, max_size=57))
    ff1 = Ff1(key, radix, tweak)
    assert ff1.decrypt(ff1.encrypt(numerals)) == numerals


@given(
    key=st.binary(min_size=32, max_size=32),
    tweak=st.binary(min_size=10, max_size=10),
    upper=st.integers(0, 2**40 - 1),
    lower=st.integers(0, 2**40 - 40),
    count=st.integers(1, 40),
)
def test_a_run_is_what_ff1_makes_of_each_number(key: bytes, tweak: bytes, upper: int, lower: int, count: int) -> None:
    ff1 = Ff1(key, 32, tweak)
    first = upper << 40 | lower
    columns = encrypt_run(ff1, tweak, first, count)
    for nth in range(count):
        numerals = [first + nth >> 5 * place & 31 for place in reversed(range(16))]
        assert [column[nth] for column in columns] == ff1.encrypt(numerals)


@pytest.mark.parametrize(("radix", "numerals"), [(10, [1] * 5), (10, [1, 10, 1, 1, 1, 1]), (10, [1, -1, 1, 1, 1, 1])])
def test_what_is_no_string_of_a_large_enough_domain_is_refused(radix: int, numerals: list[int]) -> None:
    with pytest.raises(ValueError, match="numeral"):
        Ff1(KEY, radix).encrypt(numerals)
