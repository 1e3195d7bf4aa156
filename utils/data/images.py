"""Image files in and out: decoding with EXIF orientation, sizes without decoding, writing. Free of torch."""

import io
import os
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from utils.data.headers import JPEG_END, NO_END, Header, parse_header
from utils.data.walk import walk_folders
from utils.files import open_regular, read_bytes, read_text, write_whole
from utils.logger import LOGGER

IMG_FORMATS = ("bmp", "dng", "jpeg", "jpg", "mpo", "pfm", "png", "tif", "tiff", "webp")  # suffixes, lower case
GREY = 114  # level of the pixels outside an image
HEAD_BYTES = 1 << 16  # the part of a JPEG that nearly always has its size
JPEG_START = b"\xff\xd8\xff"
FILLED_BITS = (8, 10, 12, 14, 16)  # in 16-bit samples, as cameras and scanners fill them
PILLOW_FORMATS = {kind: (kind,) for kind in ("PNG", "BMP", "TIFF", "WEBP", "JPEG")} | {"PFM": ("PPM",)}
FILLINGS = b"", bytes(range(1, 255)), bytes(range(254, 0, -1))  # put behind a JPEG that may be cut
FILLINGS += (b"".join(bytes([0xFF, 0xD0 + i, *range(1, 255)]) for i in range(8)),)  # and one of restart intervals
DECODE_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_warned = set()  # files that a warning was given of


def find_images(path) -> list:
    """Sorted image files of a folder (and the folders in it), a list file (.txt), an image file, or a list of these.

    In a list file, `./x` is relative to its folder; another relative name to the working folder, or else to its folder.
    What is named like an image is listed, whatever it is: whoever looks into it reports a pipe or the like.
    Raises FileNotFoundError where a path does not exist or no image is found at all.
    """
    files = []
    for item in path if isinstance(path, (list, tuple)) else [path]:
        item = Path(item)
        if item.is_dir():
            found = (entry for _, entries in walk_folders(str(item)) for entry in entries)
            files += [entry.path for entry in found if is_image_name(entry.name)]
        elif not item.is_file():
            raise FileNotFoundError(f"{item}: no such folder or list file of images")
        elif is_image_name(item.name):
            files.append(str(item))
        else:
            files += _read_list_file(item)
    if not files:
        raise FileNotFoundError(f"{path}: no images found (files ending in {', '.join(sorted(IMG_FORMATS))})")
    return sorted(files)


def is_image_name(name: str) -> bool:
    """Return whether a file's name ends as one of IMG_FORMATS."""
    return os.path.splitext(name)[1][1:].lower() in IMG_FORMATS


def _read_list_file(list_file: Path) -> list:
    files = []
    for line in read_text(list_file).splitlines():
        entry = line.strip()
        if not entry:
            continue
        beside = os.path.join(list_file.parent, entry)  # An absolute entry stays as it is.
        use_beside = entry.startswith(("./", ".\\")) or not os.path.exists(entry)
        files.append(os.path.normpath(beside) if use_beside else entry)
    return files


def read_image(path, reduce: int = 1, name: str = "") -> np.ndarray:
    """Decode an image file to uint8 [H, W, 3] BGR, upright (EXIF orientation applied).

    Grey and palette images become three channels, alpha is dropped, other samples are scaled as by to_uint8().
    `reduce` 2, 4 or 8 makes the sides that much shorter (rounded up or down), which is faster for large JPEGs.
    `name` is what messages call the file, in place of its path.
    Raises OSError where the file cannot be read (FileNotFoundError where there is none), and ValueError with the name
    and the reason for a broken or cut one, or one of another format than IMG_FORMATS.
    """
    return decode_image(read_bytes(path), name or path, reduce)


def decode_image(data: bytes, name, reduce: int = 1) -> np.ndarray:
    """Decode the content of an image file as read_image() does; `name` is what messages call it."""
    try:
        header = parse_header(data)
        if not header.has_end:
            data = _with_end(data)
            if name not in _warned:
                _warned.add(name)
                LOGGER.warning(f"{name}: {NO_END}")
        return _decode(data, header, reduce)
    except ValueError as error:
        raise ValueError(_broken(name, error)) from None


def image_size(path) -> tuple[int, int]:
    """Return (width, height) in pixels of what read_image() gives, without decoding where the format allows.

    Raises what read_image() does.
    """
    return inspect_image(path)[0]


def inspect_image(path) -> tuple[tuple[int, int], str]:
    """Return image_size() of a file, and a note on what is odd about it although it can be used, or ""."""
    with open_regular(path) as file:
        head = file.read(HEAD_BYTES)
        if head.startswith(JPEG_START) and len(head) == HEAD_BYTES:
            file.seek(-2, os.SEEK_END)
            with suppress(ValueError):
                header = parse_header(head + file.read())
                if header.has_end:
                    return header.upright_wh, ""
    data = head if len(head) < HEAD_BYTES else read_bytes(path)
    try:
        header = parse_header(data)
        if not header.has_end:
            _with_end(data)
            return header.upright_wh, NO_END
        if header.format in ("JPEG", "PNG"):
            return header.upright_wh, ""
        h, w = _decode(data, header).shape[:2]
        return (w, h), ""
    except ValueError as error:
        raise ValueError(_broken(path, error)) from None


def to_uint8(samples: np.ndarray, is_grey: bool) -> np.ndarray:
    """Return uint8, uint16 or float32 samples as uint8.

    uint16: the upper 8 bits are kept. Of a grey picture, the largest sample tells how many bits the camera or scanner
    filled, 8, 10, 12, 14 or 16: with values to 4,095 it is divided by 16, with values above 16,383 by 256.
    float32: 0 to 1 becomes 0 to 255; where the largest is above 1, 0 to 255 is kept. ValueError for anything else.
    """
    if samples.dtype == np.uint8:
        return samples
    low, high = samples.min(), samples.max()
    if samples.dtype.kind in "iu" and low >= 0 and high < 1 << 16:  # Pillow has 16 bits in wider numbers, too.
        bits = next(bits for bits in FILLED_BITS if high < 1 << bits) if is_grey else 16
        return (samples >> (bits - 8)).astype(np.uint8)
    if samples.dtype == np.float32 and low >= 0 and high <= 255:
        return (samples * (255 if high <= 1 else 1) + 0.5).clip(0, 255).astype(np.uint8)
    raise ValueError(f"expected samples of 8 or 16 bits, or from 0 to 1 or 255, found {samples.dtype}, {low} to {high}")


def chw_rgb(image_bgr: np.ndarray) -> np.ndarray:
    """Return contiguous uint8 RGB [3, H, W] of BGR [H, W, 3]."""
    rgb = np.empty((3, *image_bgr.shape[:2]), np.uint8)
    cv2.split(image_bgr, list(rgb[::-1]))  # It writes into these, several times faster than a numpy copy.
    return rgb


def write_image(path, image_bgr: np.ndarray) -> None:
    """Encode uint8 [H, W, 3] BGR or [H, W] grey in the format of the path's suffix. OSError if that fails."""
    try:
        encoded = cv2.imencode(Path(path).suffix, image_bgr)[1]
    except cv2.error as error:
        raise OSError(f"{path}: cannot encode {image_bgr.dtype} {list(image_bgr.shape)}: {error.err}") from None
    write_whole(path, encoded.tobytes())


def _decode(data: bytes, header: Header, reduce: int = 1) -> np.ndarray:
    """Return uint8 [H, W, 3] BGR, upright, of a file whose header is sound."""
    flags = DECODE_FLAGS[reduce if header.bits == 8 else 1] | cv2.IMREAD_ANYDEPTH
    if header.format != "TIFF":  # OpenCV turns that itself, whatever the flag says.
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # Pillow gives the reason or the image.
        image = None
    image = _decode_with_pillow(data, header.format) if image is None else image
    image = image if image.ndim == 3 else cv2.merge([image] * 3)  # OpenCV leaves a grey PFM as it is.
    image = _turned(to_uint8(image, is_grey=header.channels < 3), header.orientation)
    h, w = image.shape[:2]
    if reduce > 1 and sorted((w, h)) == sorted((header.width, header.height)):
        image = cv2.resize(image, (max(w // reduce, 1), max(h // reduce, 1)), interpolation=cv2.INTER_AREA)
    return image


def _turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """Return an image as EXIF's orientation, 1 to 8, wants it shown."""
    if orientation in (5, 6, 7, 8):
        image = cv2.transpose(image)
    mirror = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return image if mirror is None else cv2.flip(image, mirror)


def _decode_with_pillow(data: bytes, kind: str) -> np.ndarray:
    """Return uint8 [H, W, 3] BGR (or wider whole numbers) as stored; the slow second try, which says what is wrong."""
    try:
        from PIL import Image
    except ImportError:  # It is not among the packages for exported files.
        raise ValueError("OpenCV cannot decode it, and Pillow is not installed to try") from None
    try:
        with Image.open(io.BytesIO(data), formats=PILLOW_FORMATS[kind]) as image:
            if image.mode.startswith("I"):  # convert() would cut 16-bit grey off at 255.
                return np.repeat(np.asarray(image)[..., None], 3, 2)
            return np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
    except Image.UnidentifiedImageError:
        raise ValueError(f"neither OpenCV nor Pillow can decode this {kind}") from None
    except Exception as error:  # Damage may end a decoder in any way.
        raise ValueError((str(error).splitlines() or [type(error).__name__])[0][:200]) from None


def _decode_quietly(data: bytes) -> np.ndarray:
    """Return the pixels of a JPEG with odd bytes in it, about which OpenCV would print lines of its own."""
    try:
        return _decode_with_pillow(data, "JPEG")
    except ValueError:
        return _decode(data, Header("JPEG", 0, 0))


def _with_end(data: bytes) -> bytes:
    """Add the end marker to a JPEG that lacks nothing else. ValueError for one that is cut.

    What follows a complete picture is passed over, but where some of it is missing, what follows is decoded as the
    rest: so the pixels of a complete one are the same with different bytes behind it.
    """
    stored = data.rstrip(b"\xff")  # half a marker
    is_whole = not data.endswith(bytes(8))  # zeros are what a download that broke off left of the space it reserved
    if is_whole:
        pictures = [_decode_quietly(stored + filling + JPEG_END) for filling in FILLINGS]
        is_whole = all(np.array_equal(pictures[0], picture) for picture in pictures[1:])
    if not is_whole:
        raise ValueError("cut: the JPEG ends within its picture (image file is truncated)")
    return stored + JPEG_END


def _broken(path, error) -> str:
    return f"{path}: {error}" if str(error).startswith("not an image") else f"{path}: broken image: {error}"
