"""Random damage to a real file: an error or a correct conversion, never anything else."""

import encodings.raw_unicode_escape  # noqa: F401  pickletools loads it when it parses one of the old opcodes
import io
import resource
import struct
import sys
import time
import zipfile
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from sarwmix_jax.conversion.convert import ConversionRequest, convert
from sarwmix_jax.conversion.hints import Hints
from sarwmix_jax.errors import UserError
from tests.support import GOLDEN

SOURCE = GOLDEN / "finetune_tiny.pth"
HINTS = Hints(statistics="bigearthnet_v2")
FORBIDDEN = {
    "pickle.find_class",
    "os.system",
    "os.exec",
    "subprocess.Popen",
    "exec",
    "compile",
    "import",
    "socket.connect",
}

_events: list[str] | None = None


def _audit(event: str, arguments: object) -> None:
    if _events is not None and event in FORBIDDEN:
        _events.append(event)


@cache
def layout(content: bytes) -> tuple[list[range], range, range]:
    """Byte ranges of the local headers, of the pickle, and of directory and end records."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
    directory = range(content.index(b"PK\x01\x02"), len(content))
    headers, pickled = [], range(0)
    for entry in entries:
        name, extra = struct.unpack_from("<2H", content, entry.header_offset + 26)
        end = entry.header_offset + 30 + name + extra
        headers.append(range(entry.header_offset, entry.header_offset + 30 + name + min(extra, 8)))
        if entry.filename.endswith("/data.pkl"):
            pickled = range(end, end + entry.file_size)
    return headers, pickled, directory


def damage(rng: np.random.Generator, content: bytes, region: str) -> bytes:
    """One to eight bytes changed, or a piece copied elsewhere, in a region; a pickle's checksum is corrected."""
    headers, pickled, directory = layout(content)
    where = {"pickle": [pickled], "directory": [directory], "headers": headers}[region]
    damaged = bytearray(content)
    for _ in range(int(rng.integers(1, 9))):
        place = where[int(rng.integers(len(where)))]
        at = int(rng.integers(place.start, place.stop))
        if rng.random() < 0.2:
            length = int(rng.integers(1, 40))
            origin = int(rng.integers(place.start, place.stop))
            piece = content[origin : min(origin + length, place.stop)]
            damaged[at : min(at + len(piece), place.stop)] = piece[: place.stop - at]
        else:
            damaged[at] = int(
                rng.choice([int(rng.integers(256)), 0, 255, 0x7F, damaged[at] ^ (1 << int(rng.integers(8)))])
            )
    if region == "pickle":
        checksum = zlib.crc32(damaged[pickled.start : pickled.stop])
        struct.pack_into("<L", damaged, directory.start + 16, checksum)
    assert len(damaged) == len(content)
    return bytes(damaged)


def fuzz(path: Path, region: str, seed: int, cases: int, source: Path = SOURCE) -> int:
    """Number of cases that still converted."""
    global _events
    content = source.read_bytes()
    good = convert(ConversionRequest(source, HINTS)).tensors
    sys.addaudithook(_audit)
    converted = 0
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    # more than 100 MB beyond the file, over all cases, would be a MemoryError
    resource.setrlimit(resource.RLIMIT_AS, (used + len(content) + 100_000_000, limits[1]))
    try:
        for case in range(seed, seed + cases):
            path.write_bytes(damage(np.random.default_rng(case), content, region))
            began = time.process_time()
            _events = []
            try:
                tensors = convert(ConversionRequest(path, HINTS)).tensors
                converted += 1
            except UserError as error:
                assert "\n" not in str(error) and len(str(error)) < 2000, case
                tensors = None
            events, _events = _events, None
            assert not events, (case, events)
            assert time.process_time() - began < 2, case
            if tensors is not None and region != "pickle":  # a changed pickle may be a valid one with other content
                assert all(np.array_equal(tensors[name], good[name]) for name in good), case
    finally:
        _events = None
        resource.setrlimit(resource.RLIMIT_AS, limits)
    return converted


@pytest.mark.parametrize("region", ["pickle", "headers", "directory"])
def test_damage_is_refused_or_harmless(tmp_path, region):
    assert 0 < fuzz(tmp_path / "a.pth", region, 0, 100) < 100


@pytest.mark.slow
@pytest.mark.parametrize("region", ["pickle", "headers", "directory"])
def test_ten_thousand_damages(tmp_path, region):
    cases = {"pickle": 6000, "headers": 2000, "directory": 2000}[region]
    assert 0 < fuzz(tmp_path / "a.pth", region, 1000, cases) < cases


def test_a_conversion_that_takes_too_much_memory_is_found(tmp_path, monkeypatch):
    honest = convert

    def greedy(request):
        np.empty(4_000_000_000, np.uint8)  # more than a long test process could have kept from before
        return honest(request)

    monkeypatch.setattr("tests.conversion.test_fuzz.convert", greedy)
    with pytest.raises(MemoryError):
        fuzz(tmp_path / "a.pth", "pickle", 0, 1)
