"""Which characters the receipts' font can draw, read from the font file itself.

typst draws a box for any other and says nothing; a name on a receipt must not become a box.
"""

import functools
import struct

import pylopdf_fonts_zh_cn


def drawable(text: str) -> str:
    """The text with every character the font lacks written as its code: 〔U+3106C〕."""
    known = _code_points()
    return "".join(
        letter if ord(letter) in known or letter.isspace() else f"〔U+{ord(letter):04X}〕"
        for letter in text
    )


@functools.cache
def _code_points() -> frozenset[int]:
    """From the font's cmap, subtable format 12 (OpenType 1.9, "Segmented coverage")."""
    font = pylopdf_fonts_zh_cn.sans_path().read_bytes()
    cmap = _table(font, b"cmap")
    known: set[int] = set()
    (count,) = struct.unpack_from(">H", cmap, 2)
    for index in range(count):
        (start,) = struct.unpack_from(">I", cmap, 4 + 8 * index + 4)
        if struct.unpack_from(">H", cmap, start)[0] != 12:
            continue
        (groups,) = struct.unpack_from(">I", cmap, start + 12)
        for first, last, glyph in struct.iter_unpack(
            ">III", cmap[start + 16 : start + 16 + 12 * groups]
        ):
            known.update(range(first if glyph else first + 1, last + 1))
    if not known:
        raise RuntimeError("the receipts' font has no cmap of format 12")
    return frozenset(known)


def _table(font: bytes, tag: bytes) -> bytes:
    (count,) = struct.unpack_from(">H", font, 4)
    for index in range(count):
        name, _, offset, length = struct.unpack_from(">4sIII", font, 12 + 16 * index)
        if name == tag:
            return font[offset : offset + length]
    raise RuntimeError(f"the receipts' font has no table {tag.decode()}")
