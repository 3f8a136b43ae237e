"""Tests on real data run where the data is, and nobody overlooks that they did not."""

import pytest
from _pytest.terminal import TerminalReporter

from tests.data.world import MISSING


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    """Say loudly which data sets were asked for and are not there."""
    missing = config.stash.get(MISSING, set())
    if not missing:
        return
    terminalreporter.section("REAL DATA WAS NOT TESTED", sep="!", red=True, bold=True)
    for folder in sorted(missing):
        terminalreporter.line(f"{folder} does not exist: its data set was NOT imported and NOT reconciled.", red=True)
    terminalreporter.line("Put the data there, or say where it is: TESSERA_DATA=/path/to/data make test", red=True)
