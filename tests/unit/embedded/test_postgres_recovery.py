"""How an embedded PostgreSQL gets back after it was killed."""

import os
import sys

import pytest

from infra.embedded import postgres


@pytest.mark.parametrize(
    ("release", "how"),
    [("6.1.0-13-amd64", "syncfs"), ("5.8.0", "syncfs"), ("5.4.0-150-generic", "fsync"), ("4.19", "fsync")],
)
def test_a_kernel_that_hides_errors_of_the_disk_is_asked_to_write_every_file(
    monkeypatch: pytest.MonkeyPatch, release: str, how: str
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "here", release, "", "x86_64")))
    assert postgres._sync_before_recovery() == how


def test_elsewhere_than_on_linux_every_file_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert postgres._sync_before_recovery() == "fsync"
