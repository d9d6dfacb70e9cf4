"""`crc32` of stored images: isal's where it is installed, else zlib's, which says the same in eight times the time
(3.7 microseconds for 27 KB)."""

from __future__ import annotations

try:
    from isal.isal_zlib import crc32
except ImportError:  # no wheel for this machine
    from zlib import crc32

__all__ = ["crc32"]
