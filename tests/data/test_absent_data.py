"""Where the data is absent, the suite says so loudly instead of looking complete."""

import os
import subprocess
import sys
from pathlib import Path

from tests.data.world import ROOT


def test_absent_data_is_told_loudly(tmp_path: Path) -> None:
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "tests/data/test_completejourney.py",
            "tests/data/test_online_retail.py",
        ],
        cwd=ROOT,
        # pytest closes the folder of its temporary folders to other users; those beside us run servers under ours.
        env={**os.environ, "TESSERA_DATA": str(tmp_path), "PYTEST_DEBUG_TEMPROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "REAL DATA WAS NOT TESTED" in run.stdout
    for name in ("completejourney", "online_retail"):
        assert f"{tmp_path / name} does not exist: its data set was NOT imported and NOT reconciled." in run.stdout
    assert "passed" not in run.stdout.splitlines()[-1]
