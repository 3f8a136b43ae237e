"""What the tests of imports share."""

from pathlib import Path

import pytest

from tests.unit.imports.samples import Shop, open_shop


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A corner shop of one's own."""
    return open_shop(tmp_path)
