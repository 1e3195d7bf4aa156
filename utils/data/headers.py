"""The beginning of a picture file: format, size, orientation, bits. No pixel is decoded, and no number is believed.

What a file claims is compared with its own length and with bounds before a decoder sees it, so that a damaged or
hostile file costs neither memory nor time.
"""

import re
import struct
import zlib
from itertools import islice
from typing import NamedTuple

MAX_PIXELS = 2 * 89_478_485  # The bound of Pillow, where 89,478,485 pixels of three bytes are a quarter of a gigabyte.
MAX_DEFLATE_RATIO = 1032  # A deflated byte gives at most so many.
MAX_SCANS = 100  # in a JPEG; encoders make about ten
ORIENTATION_TAG = 274
JPEG_END = b"\xff\xd9"
NO_END = "the JPEG's end marker (FF D9) is missing; it is used, as nothing else is"
SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"PF": "PFM",
    b"Pf": "PFM",
}
FOREIGN_SIGNATURES = {  # Files that begin so often have a picture's name; they are not opened.
    b"GIF8": "GIF",
    b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "PostScript",
    b"%PDF": "PDF",
    b"\0\0\0\x0cjP": "JPEG 2000",
    b"\xff\x0a": "JPEG XL",
    b"8BPS": "Photoshop",
    b"<": "HTML, XML or SVG",
    b"version https://git-lfs": "a Git LFS pointer",
}


class Header(NamedTuple):
    """The claims of a picture file about itself."""

    format: str
    width: int  # px, as stored
    height: int
    orientation: int = 1  # EXIF's, 1 to 8; 1 for a TIFF, which decoders turn themselves
    bits: int = 8  # in a sample
    channels: int = 3  # 1 and 2 are grey, where this is known
    has_end: bool = True  # False for a JPEG without an end marker

    @property
    def upright_wh(self) -> tuple[int, int]:
        """(width, height) in pixels with the orientation applied."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def parse_header(data: bytes) -> Header:
    """Read the header of a whole picture file. ValueError with the reason for a foreign, cut or impossible one."""
    kind = next((kind for start, kind in SIGNATURES.items() if data.startswith(start)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "WEBP"
    if kind is None:
        raise ValueError(f"not an image, or its header is damaged{_foreign(data)}")
    try:
        header = PARSERS[kind](data)
    except (struct.error, IndexError):
        raise ValueError(f"the {kind} header is cut") from None
    if header.width < 1 or header.height < 1 or header.width * header.height > MAX_PIXELS:
        found = f"{header.width} x {header.height}"
        raise ValueError(f"expected sides of at least 1 and at most {MAX_PIXELS:,} pixels, found {found}")
    return header


def _foreign(data: bytes) -> str:
    if data[4:8] == b"ftyp":
        return f" (it holds {data[8:12].decode('ascii', 'replace').strip()}, as HEIC, AVIF and MP4 files do)"
    names = (name for start, name in FOREIGN_SIGNATURES.items() if data.startswith(start))
    name = next(names, "")
    return f" (it holds {name})" if name else ""


def _parse_jpeg(data: bytes) -> Header:
    size, components, orientation, position = None, 0, 1, 2
    while True:
        position = data.find(b"\xff", position)  # Decoders skip what is between two segments.
        if position < 0:
            raise ValueError("the JPEG ends before its picture: the file is cut")
        marker = data[position + 1]
        position += 1 if marker == 0xFF else 2
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
            continue
        if marker == 0xD9:
            raise ValueError("the JPEG ends before its picture")
        length = struct.unpack_from(">H", data, position)[0]
        if marker in (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF):
            *size, components = struct.unpack_from(">HHB", data, position + 3)
        elif marker == 0xE1 and data[position + 2 : position + 8] == b"Exif\0\0" and orientation == 1:
            orientation = _orientation(data[position + 8 : position + length])
        elif marker == 0xDA:
            break
        position += length
    if size is None:
        raise ValueError("the JPEG has no frame header")
    has_end = data.endswith(JPEG_END) or data.find(JPEG_END, position) >= 0  # Within a scan it cannot occur.
    if not has_end and not _has_all_scans(data[position - 2 :], components):
        raise ValueError("cut: the JPEG ends between two of its scans")
    return Header("JPEG", size[1], size[0], orientation, has_end=has_end)


def _has_all_scans(data: bytes, components: int) -> bool:
    """Tell whether the scans that `data` begins with give every coefficient of every component, to its last bit."""
    missing_bits = {}
    for scan in islice(re.finditer(rb"\xff\xda", data), MAX_SCANS):  # Compressed data have FF before 00, RSTn alone.
        count, start = min(data[scan.end() + 2], 4), scan.end() + 3
        first, last, bits = struct.unpack_from("3B", data, start + 2 * count)
        for component in data[start : start + 2 * count : 2]:
            missing_bits |= {(component, coefficient): bits & 15 for coefficient in range(first, min(last, 63) + 1)}
    return len(missing_bits) >= 64 * components and not any(missing_bits.values())


def _parse_png(data: bytes) -> Header:
    position, packed, orientation, head, kind = 8, 0, 1, None, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise ValueError(f"cut: the PNG chunk {kind!r} claims {length:,} bytes, {len(data) - position:,} are left")
        if zlib.crc32(memoryview(data)[position + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise ValueError(f"the checksum of the PNG chunk {kind!r} at byte {position} is wrong")
        if kind == b"IHDR":
            head = struct.unpack_from(">IIBB", data, position + 8)
        elif kind == b"IDAT":
            packed += length
        elif kind == b"eXIf":
            orientation = _orientation(data[position + 8 : end - 4])
        position = end
    if head is None:
        raise ValueError("the PNG has no header")
    width, height, bits, colour = head
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour)
    if channels is None or bits not in (1, 2, 4, 8, 16):
        raise ValueError(f"the PNG header is damaged (colour type {colour}, {bits} bits)")
    if width * height * bits * channels // 8 > (packed + 16) * MAX_DEFLATE_RATIO:
        raise ValueError(f"the PNG claims {width} x {height} pixels, more than its {packed:,} bytes can hold")
    return Header("PNG", width, height, orientation, bits, channels=3 if colour == 3 else channels)


def _parse_bmp(data: bytes) -> Header:
    start, head_length = struct.unpack_from("<II", data, 10)
    if head_length == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        packing = 0
    else:
        width, height, _, bits, packing = struct.unpack_from("<iiHHI", data, 18)
    if packing in (0, 3) and start + (width * bits + 31) // 32 * 4 * abs(height) > len(data):
        raise ValueError(f"cut: {width} x {abs(height)} pixels of {bits} bits are more than the {len(data):,} bytes")
    return Header("BMP", width, abs(height))


def _parse_webp(data: bytes) -> Header:
    size, orientation, position = None, 1, 12
    length = struct.unpack_from("<I", data, 4)[0] + 8
    if length > len(data):
        raise ValueError(f"cut: the WebP claims {length:,} bytes, the file has {len(data):,}")
    while position + 8 <= length:
        kind, chunk_length = struct.unpack_from("<4sI", data, position)
        body = data[position + 8 : position + 8 + chunk_length]
        if kind == b"VP8X":
            size = [int.from_bytes(body[i : i + 3], "little") + 1 for i in (4, 7)]
        elif kind == b"VP8 " and size is None:
            size = [side & 0x3FFF for side in struct.unpack_from("<HH", body, 6)]
        elif kind == b"VP8L" and size is None:
            packed = struct.unpack_from("<I", body, 1)[0]
            size = [(packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1]
        elif kind == b"EXIF":
            orientation = _orientation(body.removeprefix(b"Exif\0\0"))
        position += 8 + chunk_length + chunk_length % 2
    if size is None:
        raise ValueError("the WebP has no picture")
    return Header("WEBP", *size, orientation)


def _parse_tiff(data: bytes) -> Header:
    tags = _first_directory(data)
    width, height, channels = (tags.get(tag, 1) for tag in (256, 257, 277))
    bits, sample_format = tags.get(258, 1), tags.get(339, 1)
    if channels > 4:
        raise ValueError(f"expected 1 to 4 channels, found {channels}")
    if bits > 16:
        raise ValueError(f"expected 8 or 16 bits per sample, found {bits}")
    if sample_format in (2, 3, 5, 6):
        kind = "signed" if sample_format in (2, 5) else "floating-point"
        raise ValueError(f"expected samples from 0 upwards, found {kind} ones of {bits} bits")
    if tags.get(322, 1) * tags.get(323, 1) > 4 * width * height + 2**24:
        raise ValueError(f"a tile of {tags[322]} x {tags[323]} is larger than the picture, {width} x {height}")
    return Header("TIFF", width, height, bits=bits, channels=3 if tags.get(262) == 3 else channels)


def _parse_pfm(data: bytes) -> Header:
    match = re.match(rb"P([Ff])\s+(\d{1,9})\s+(\d{1,9})\s+[-+.0-9eE]{1,20}\s", data[:100])
    if not match:
        raise ValueError("the PFM header is damaged")
    width, height, channels = int(match[2]), int(match[3]), 3 if match[1] == b"F" else 1
    if match.end() + 4 * width * height * channels > len(data):
        raise ValueError(f"cut: {width} x {height} x {channels} numbers are more than the {len(data):,} bytes")
    return Header("PFM", width, height, bits=32, channels=channels)


PARSERS = {
    "JPEG": _parse_jpeg,
    "PNG": _parse_png,
    "BMP": _parse_bmp,
    "WEBP": _parse_webp,
    "TIFF": _parse_tiff,
    "PFM": _parse_pfm,
}


def _orientation(exif: bytes) -> int:
    """Return the orientation, 1 to 8, of an EXIF block; 1 where it has none or is damaged."""
    try:
        value = _first_directory(exif).get(ORIENTATION_TAG, 1)
    except (ValueError, struct.error):
        return 1
    return value if 1 <= value <= 8 else 1


def _first_directory(tiff: bytes) -> dict[int, int]:
    """Return {tag: first value} of the whole-number entries of a TIFF's (or BigTIFF's) first directory.

    An entry that claims no value, or whose value is beyond the end, is left out. struct.error if the directory is cut.
    """
    if tiff[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        raise ValueError("no TIFF header")
    order, big = "<" if tiff[:1] == b"I" else ">", b"+" in tiff[2:4]
    start = struct.unpack_from(f"{order}{'Q' if big else 'I'}", tiff, 8 if big else 4)[0]
    entry, step = struct.Struct(f"{order}HH{'QQ' if big else 'II'}"), 20 if big else 12
    count = struct.unpack_from(f"{order}{'Q' if big else 'H'}", tiff, start)[0]
    if count * step > len(tiff):
        raise struct.error
    tags, first = {}, start + (8 if big else 2)
    for position in range(first, first + count * step, step):
        tag, kind, values, offset = entry.unpack_from(tiff, position)
        code = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
        if code is None or values < 1:
            continue
        is_inline = values * struct.calcsize(code) <= (8 if big else 4)
        start = position + (12 if big else 8) if is_inline else offset
        if start + struct.calcsize(code) <= len(tiff):
            tags[tag] = struct.unpack_from(order + code, tiff, start)[0]
    return tags
