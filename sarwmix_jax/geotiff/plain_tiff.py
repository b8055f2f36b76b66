"""A fast reader of the plainest GeoTIFFs: one band of float32, not compressed, in strips.

All patches of BigEarthNet are such files; opening one with GDAL takes ten times as long as reading it. Whatever is
not certain to be plain is left to GDAL.
"""

import struct

import numpy as np
from jaxtyping import Float

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _OFFSETS, _SAMPLES, _BYTES = 256, 257, 258, 259, 273, 277, 279
_PREDICTOR, _TILE_WIDTH, _SAMPLE_FORMAT, _FILL_ORDER = 317, 322, 339, 266
_WANTED = {
    _BITS: (32,),
    _COMPRESSION: (1,),
    _SAMPLES: (1,),
    _SAMPLE_FORMAT: (3,),
    _PREDICTOR: (1,),
    _FILL_ORDER: (1,),
}
_DEFAULTS = {_COMPRESSION: (1,), _SAMPLES: (1,), _PREDICTOR: (1,), _FILL_ORDER: (1,)}
_CODES = {3: "H", 4: "I"}
_INLINE_BYTES = 4


def read_plain_tiff(data: bytes) -> Float[np.ndarray, "height width"] | None:
    """The band of a plain TIFF, float32; None when the file is of another kind or damaged."""
    if data[:4] != b"II*\0":
        return None
    try:
        tags = _DEFAULTS | _read_tags(data)
        (width,), (height,) = tags[_WIDTH], tags[_HEIGHT]
        offsets, sizes = tags[_OFFSETS], tags[_BYTES]
    except (struct.error, KeyError, ValueError):
        return None
    if _TILE_WIDTH in tags or any(tags.get(tag) != wanted for tag, wanted in _WANTED.items()):
        return None
    strips = [data[start : start + size] for start, size in zip(offsets, sizes, strict=False)]
    if [len(strip) for strip in strips] != list(sizes) or sum(sizes) != 4 * width * height:
        return None
    return np.frombuffer(b"".join(strips), "<f4").reshape(height, width)


def _read_tags(data: bytes) -> dict[int, tuple[int, ...]]:
    """Tags of whole numbers in the first directory.

    Raises:
        struct.error: The file ends before they do.
    """
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    tags = {}
    for number in range(count):
        place = start + 2 + 12 * number
        tag, kind, length = struct.unpack_from("<HHI", data, place)
        code = _CODES.get(kind)
        if code is None:
            continue
        layout = f"<{length}{code}"
        if struct.calcsize(layout) > len(data):
            raise struct.error("a tag longer than the file")
        inline = struct.calcsize(layout) <= _INLINE_BYTES
        where = place + 8 if inline else struct.unpack_from("<I", data, place + 8)[0]
        tags[tag] = struct.unpack_from(layout, data, where)
    return tags
