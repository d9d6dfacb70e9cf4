"""The checksum of stored images is zlib's crc32, with isal and on a machine without it."""

from __future__ import annotations

import importlib
import sys
import zlib
from collections.abc import Iterator

import pytest

from hpo.data import checksum


@pytest.fixture(params=["isal", "zlib"])
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "isal":
        pytest.importorskip("isal")
    else:
        monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)  # as where there is no wheel of it
    importlib.reload(checksum)
    yield request.param
    monkeypatch.undo()
    importlib.reload(checksum)


def test_it_is_zlibs_whoever_computes_it(module: str, photographs: dict[str, list[bytes]]) -> None:
    assert module in checksum.crc32.__module__
    for data in (b"", b"1", *photographs["shoes"][:4]):
        assert checksum.crc32(data) == zlib.crc32(data)
        assert checksum.crc32(memoryview(data)) == zlib.crc32(data)
