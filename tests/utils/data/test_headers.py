"""What a picture's first bytes say, and what of it is not believed."""

import io
import re
import resource
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.data.headers import parse_header
from utils.data.images import image_size, inspect_image, read_image


def encoded(kind: str, size=(61, 47), **options) -> bytes:
    pixels = cv2.resize(np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8), size)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def png(*chunks) -> bytes:
    parts = (struct.pack(">I", len(body)) + kind + body for kind, body in chunks)
    sums = (struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(part + crc for part, crc in zip(parts, sums))


def ihdr(width: int, height: int, bits: int = 8, colour: int = 2) -> tuple:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)


def tiff(**tags) -> bytes:
    """A TIFF of 8 x 8 grey pixels, with other tags."""
    numbers = {"w": 256, "h": 257, "bits": 258, "packing": 259, "photo": 262, "strip": 273, "channels": 277}
    numbers |= {"rows": 278, "bytes": 279, "tile_w": 322, "tile_h": 323, "format": 339}
    values = {"w": 8, "h": 8, "bits": 8, "packing": 1, "photo": 1, "strip": 8, "channels": 1, "rows": 8, "bytes": 64}
    values |= tags
    entries = b"".join(struct.pack("<HHII", numbers[k], 4, 1, values[k]) for k in sorted(values, key=numbers.get))
    return b"II*\0" + struct.pack("<I", 72) + bytes(64) + struct.pack("<H", len(values)) + entries + bytes(4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF"])
def test_headers_say_what_pillow_says(kind):
    header = parse_header(encoded(kind))
    assert (header.format, header.width, header.height, header.bits) == (kind, 61, 47, 8)
    lossless = parse_header(encoded("WEBP", lossless=True))
    assert (lossless.width, lossless.height) == (61, 47)
    assert parse_header(b"PF\n2 3\n-1.0\n" + bytes(72)).channels == 3


REFUSED = [
    (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript", "a format that runs programs"),
    (b"GIF89a" + bytes(40), "GIF", "a format that is none of ours"),
    (b"\0\0\0\x18ftypheic" + bytes(40), "heic", "a phone's picture with the suffix .jpg"),
    (b"P6\n2 2\n255\n" + bytes(12), "not an image", "a format that OpenCV would open"),
    (b"<html>404</html>", "HTML", "an error page that was saved as a picture"),
    (b"", "not an image", "an empty file"),
    (png(ihdr(64, 64))[:-12] + struct.pack(">I", 0xFFFFFFF0) + b"IDATabc", "claims", "a chunk of 4 GB"),
    (png(ihdr(13000, 13000), (b"IDAT", bytes(100)), (b"IEND", b"")), "can hold", "half a gigabyte in 100 bytes"),
    (png(ihdr(60000, 60000, 1, 0), (b"IDAT", bytes(1 << 20)), (b"IEND", b"")), "at most", "too many pixels"),
    (png(ihdr(9, 9, colour=77), (b"IEND", b"")), "damaged", "no such colour type"),
    (png((b"IDAT", b""), (b"IEND", b"")), "no header", "no header chunk"),
    (
        b"\xff\xd8\xff\xc0\0\x0b\x08\xff\xff\xff\xff\x01\1\x11\0\xff\xda\0\x03\0\xff\xd9",
        "at most",
        "JPEG of 65,535 squared",
    ),
    (b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, 30000, -5000, 1, 24, 0), "cut", "a BMP without its pixels"),
    (b"RIFF\xff\xff\xff\x7fWEBPVP8X", "cut", "a WebP that claims 2 GB"),
    (b"PF\n99999 1000\n1\n", "cut", "a PFM without its numbers"),
    (tiff(channels=5), "1 to 4 channels, found 5", "five channels"),
    (tiff(bits=16, format=2), "signed ones of 16 bits", "signed samples"),
    (tiff(bits=16, format=3), "floating-point", "half precision"),
    (tiff(bits=32), "8 or 16 bits per sample, found 32", "32 bits"),
    (tiff(w=1 << 31, h=1 << 31), "at most", "a TIFF of 4e18 pixels"),
    (tiff(tile_w=1 << 16, tile_h=1 << 15), "tile", "a tile of 2 GB"),
    (b"MM\0*\xff\xff\xff\xf0", "cut", "a directory beyond the end"),
]


@pytest.mark.parametrize("data,reason,proves", REFUSED, ids=[row[2] for row in REFUSED])
def test_what_is_refused_names_the_file_and_the_reason(tmp_path, data, reason, proves):
    file = tmp_path / "picture.jpg"
    file.write_bytes(data)
    for function in (read_image, image_size):
        with pytest.raises(ValueError, match=reason) as error:
            function(file)
        assert str(error.value).startswith(f"{file}: ") and len(str(error.value)) < 250 + len(str(file))


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
def test_refusing_takes_little_memory(tmp_path):
    for number, (data, *_) in enumerate(REFUSED):
        (tmp_path / f"{number}.png").write_bytes(data)
    program = (
        "import glob, resource, sys; from utils.data.images import read_image\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20),) * 2)\n"
        "for file in glob.glob(sys.argv[1] + '/*'):\n"
        "    try: read_image(file); print('accepted', file)\n"
        "    except ValueError as error: assert 'emory' not in str(error), error"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 3}])
def test_jpeg_without_its_end_is_used_and_a_cut_one_is_not(tmp_path, caplog, capfd, options):
    file, data = tmp_path / "a.jpg", encoded("JPEG", **options)
    file.write_bytes(data)
    expected = read_image(file)
    assert inspect_image(file) == ((61, 47), "")
    for lost in (1, 2):
        file.write_bytes(data[:-lost])
        size_wh, note = inspect_image(file)
        assert size_wh == (61, 47) and "end marker" in note
        np.testing.assert_array_equal(read_image(file), expected)
        np.testing.assert_array_equal(read_image(file), expected)
    assert caplog.text.count("end marker") == 1 and not capfd.readouterr().err  # once for a file, and nothing else
    for broken in (data[:-20], data[: len(data) // 2], data[:-300] + bytes(300), data[:200]):
        file.write_bytes(broken)
        for function in (read_image, image_size):
            with pytest.raises(ValueError, match="cut|ends before|truncated"):
                function(file)


@pytest.mark.parametrize("options", [{"progressive": True}, {"progressive": True, "subsampling": 0}])
def test_a_jpeg_cut_between_two_scans_is_refused(tmp_path, options):
    """Each part of it is whole, and decoders show it with less detail."""
    data = encoded("JPEG", **options)
    cuts = [match.start() for match in re.finditer(rb"\xff[\xda\xc4]", data)][5:]
    assert len(cuts) > 10
    for cut in cuts:
        (tmp_path / "a.jpg").write_bytes(data[:cut])
        for function in (read_image, image_size):
            with pytest.raises(ValueError, match="cut"):
                function(tmp_path / "a.jpg")


def with_exif(data: bytes, entry: bytes) -> bytes:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\1" + entry + bytes(4)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


@pytest.mark.parametrize(
    "entry,turned,proves",
    [
        (b"\1\x12\0\3\0\0\0\1\0\6\0\0", True, "a sound entry"),
        (b"\1\x12\0\3\0\0\0\0\0\6\0\0", False, "an entry that claims no value"),
        (b"\1\x12\0\3\0\0\0\1\0\x09\0\0", False, "a value beyond 8"),
        (b"\1\x12\0\x63\0\0\0\1\0\6\0\0", False, "an unknown type"),
        (b"\1\x12\0\3\xff\xff\xff\xff\xff\xff\xff\xff", False, "an offset beyond the end"),
    ],
)
def test_size_and_pixels_agree_on_a_damaged_orientation(tmp_path, entry, turned, proves):
    file = tmp_path / "a.jpg"
    file.write_bytes(with_exif(encoded("JPEG"), entry))
    h, w = read_image(file).shape[:2]
    assert image_size(file) == (w, h) == ((47, 61) if turned else (61, 47))
    assert read_image(file, 2).shape[:2] in ((h // 2, w // 2), (-(-h // 2), -(-w // 2)))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("filled", [8, 10, 12, 14, 16])
def test_grey_of_16_bits_is_scaled_by_the_bits_it_fills(tmp_path, suffix, filled):
    wide = np.linspace(0, 255.99, 320 * 240).reshape(240, 320)
    file, samples = tmp_path / f"a.{suffix}", (wide * 2 ** (filled - 8)).astype(np.uint16)
    file.write_bytes(cv2.imencode(f".{suffix}", samples)[1].tobytes())
    assert (read_image(file)[..., 1] == wide.astype(np.uint8)).all()
    assert abs(float(read_image(file, 2).mean()) - 127.5) < 1


@pytest.mark.parametrize("highest,factor", [(1, 255), (255, 1)])
def test_pfm_is_scaled_by_its_range(tmp_path, highest, factor):
    file, samples = tmp_path / "a.pfm", np.linspace(0, highest, 64, dtype=np.float32).reshape(8, 8)
    for kind, body in ((b"Pf", samples), (b"PF", np.repeat(samples[..., None], 3, 2))):
        file.write_bytes(kind + b"\n8 8\n-1.0\n" + np.ascontiguousarray(body[::-1]).tobytes())
        assert np.abs(read_image(file)[..., 0] - samples * factor).max() <= 0.51
        assert image_size(file) == (8, 8)
    file.write_bytes(b"Pf\n8 8\n-1.0\n" + (samples * 300).tobytes())
    with pytest.raises(ValueError, match="from 0 to 1 or 255"):
        read_image(file)
