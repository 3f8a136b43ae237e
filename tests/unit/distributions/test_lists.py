"""A list of users is read whole and exactly, or refused with the rows that are wrong."""

import pytest

from contracts.commands.distribution import DISTRIBUTION_USERS_MAX
from infra.distributions.lists import BadEntry, BadList, UnclearColumn, read_csv, users_of_json


@pytest.mark.parametrize(
    ("text", "users"),
    [
        ("user_id\nann\nbob\n", ["ann", "bob"]),
        ("ann\nbob", ["ann", "bob"]),
        ("\ufeffUser_Id \r\nann\r\n\r\nbob\r\n", ["ann", "bob"]),
        ("row,user_id,code,detail\n7,ann,paused,Claims are refused.\n", ["ann"]),
        ("name;user_id\nAnn;ann\n", ["ann"]),
        ('"d""x",\nuser', None),
        ('user_id\n"a,b"\n', ["a,b"]),
        ("ann\nann\n", ["ann", "ann"]),
    ],
    ids=["header", "bare", "bom and blank lines", "a file of refusals", "semicolons", "two columns", "quoted", "twice"],
)
def test_a_csv_file_names_users_in_its_column_or_in_its_only_one(text: str, users: list[str] | None) -> None:
    if users is None:
        with pytest.raises(UnclearColumn, match="no column called user_id"):
            read_csv(text.encode())
    else:
        assert read_csv(text.encode()).users == users


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"", "empty"),
        (b"user_id\n", "empty"),
        (b"user_id\n\xff\xfe\n", "not UTF-8"),
        (b'user_id\n"ann\n', "no CSV"),
        (b"a,b\n1,2\n", "no column called user_id; its columns: a, b"),
        (b"user_id,x,USER_ID\n1,2,3\n", "several columns called user_id"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_as_a_whole(raw: bytes, what: str) -> None:
    with pytest.raises(BadList, match=what):
        read_csv(raw)


def test_every_row_that_is_wrong_is_named() -> None:
    said = r"row 2 \(line 4 of the file\): must be 1 to 128 .* \(of 3 rows"
    with pytest.raises(BadList, match=said) as refused:
        read_csv(f"user_id,x\nann,1\n\n ,2\n{'x' * 129},3\nb\tb,4\n".encode())
    assert [(entry.row, entry.line) for entry in refused.value.entries] == [(2, 4), (3, 5), (4, 6)]


@pytest.mark.parametrize(
    ("column", "users"), [("customer", ["ann", "bob"]), (" Customer ", ["ann", "bob"]), ("name", ["Ann", "Bob"])]
)
def test_a_column_that_is_named_is_the_one(column: str, users: list[str]) -> None:
    assert read_csv(b"customer,name,user_id\nann,Ann,1\nbob,Bob,2\n", column).users == users


def test_the_only_column_under_another_name_is_a_header_once_it_is_named() -> None:
    text = b"customer\nann\n"
    assert read_csv(text) == (["customer", "ann"], False)
    assert read_csv(text, "customer") == (["ann"], True)


@pytest.mark.parametrize("text", [b"ann\nbob\n", b"user_id\nann\n", b"a,b\n1,2\n"])
def test_a_column_that_is_not_there_is_never_guessed(text: bytes) -> None:
    with pytest.raises(UnclearColumn, match="no column called customer"):
        read_csv(text, "customer")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"user_id\nann\ndoe, john\n", r"row 2 \(line 3 of the file\): has 2 fields, and the first row 1"),
        (b"ann\ndoe,john\n", r"row 2 \(line 2 of the file\): has 2 fields, and the first row 1"),
        (b"user_id,name\nann,Ann\nbob\n", r"row 2 \(line 3 of the file\): has 1 fields, and the first row 2"),
    ],
)
def test_a_row_that_is_not_as_wide_as_the_first_is_no_users(text: bytes, what: str) -> None:
    with pytest.raises(BadList, match=what):
        read_csv(text)


def test_a_json_array_takes_strings_and_integers() -> None:
    assert users_of_json(["ann", 7]) == ["ann", "7"]
    for wrong in ([True], [None], [1.5], [["ann"]], "ann", {"ann": 1}, []):
        with pytest.raises(BadList):
            users_of_json(wrong)
    with pytest.raises(BadList) as refused:
        users_of_json(["ann", None])
    assert refused.value.entries == [BadEntry(2, "must be one user id")]


def test_a_list_has_its_limit() -> None:
    with pytest.raises(BadList, match="1,000,001"):
        users_of_json(["ann"] * (DISTRIBUTION_USERS_MAX + 1))
