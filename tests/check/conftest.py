"""A site's recorded answers as commands on PATH."""

from __future__ import annotations

from pathlib import Path

import pytest
from wrong_sweeps import make_site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PATH, see wrong_sweeps.py."""
    return make_site(tmp_path_factory.mktemp("site"))
