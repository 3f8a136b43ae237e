"""A list of users is read whole and exactly, or refused with the rows that are wrong."""

import pytest

from contracts.commands.distribution import DISTRIBUTION_USERS_MAX
from infra.distributions.lists import BadEntry, BadList, users_of_csv, users_of_json


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
        with pytest.raises(BadList, match="none is called user_id"):
            users_of_csv(text.encode())
    else:
        assert users_of_csv(text.encode()) == users


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"", "empty"),
        (b"user_id\n", "empty"),
        (b"user_id\n\xff\xfe\n", "not UTF-8"),
        (b'user_id\n"ann\n', "no CSV"),
        (b"a,b\n1,2\n", "none is called user_id"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_as_a_whole(raw: bytes, what: str) -> None:
    with pytest.raises(BadList, match=what):
        users_of_csv(raw)


def test_every_row_that_is_wrong_is_named() -> None:
    with pytest.raises(BadList, match="row 2: must be 1 to 128") as refused:
        users_of_csv(f"user_id,x\nann,1\n ,2\n{'x' * 129},3\nb\tb,4\n".encode())
    assert [entry.row for entry in refused.value.entries] == [2, 3, 4]


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
