"""Small real sweeps that suffer faults."""

from __future__ import annotations

import pytest
from small_sweeps import make_shards


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """Shards of a few bundled photographs, made once."""
    return make_shards(tmp_path_factory.mktemp("faults"))
