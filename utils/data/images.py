"""Image files in and out: decoding with EXIF orientation, sizes without decoding, writing. Free of torch."""

import glob
import os
from pathlib import Path

import cv2
import numpy as np

IMG_FORMATS = ("bmp", "dng", "jpeg", "jpg", "mpo", "pfm", "png", "tif", "tiff", "webp")  # suffixes, lower case
GREY = 114  # level of the pixels outside an image
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
EXIF_ORIENTATION = 274  # tag number; values 5 to 8 exchange width and height
DECODE_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def find_images(path) -> list:
    """Sorted image files of a folder (and the folders in it), a list file (.txt), an image file, or a list of these.

    In a list file, `./x` is relative to its folder; another relative name to the working folder, or else to its folder.
    Raises FileNotFoundError where a path does not exist or no image is found at all.
    """
    files = []
    for item in path if isinstance(path, (list, tuple)) else [path]:
        item = Path(item)
        if item.is_dir():
            found = glob.glob(os.path.join(glob.escape(str(item)), "**", "*.*"), recursive=True)
            files += [file for file in found if _is_image_name(file)]
        elif not item.is_file():
            raise FileNotFoundError(f"{item}: no such folder or list file of images")
        elif _is_image_name(item.name):
            files.append(str(item))
        else:
            files += _read_list_file(item)
    if not files:
        raise FileNotFoundError(f"{path}: no images found (files ending in {', '.join(sorted(IMG_FORMATS))})")
    return sorted(files)


def _is_image_name(name: str) -> bool:
    return os.path.splitext(name)[1][1:].lower() in IMG_FORMATS


def _read_list_file(list_file: Path) -> list:
    files = []
    for line in list_file.read_text(encoding="utf-8-sig").splitlines():
        entry = line.strip()
        if not entry:
            continue
        beside = os.path.join(list_file.parent, entry)  # of an absolute entry: the entry
        use_beside = entry.startswith(("./", ".\\")) or not os.path.exists(entry)
        files.append(os.path.normpath(beside) if use_beside else entry)
    return files


def read_image(path, reduce: int = 1) -> np.ndarray:
    """Decode an image file to uint8 [H, W, 3] BGR, upright (EXIF orientation applied).

    Grey and palette images become three channels, 16-bit samples are divided by 256, alpha is dropped.
    `reduce` 2, 4 or 8 makes the sides that much shorter (rounded up or down), which is faster for large JPEGs.
    Raises FileNotFoundError, or ValueError with the path and the reason for a broken or truncated file.
    """
    data = _read_bytes(path)
    image = None
    if data.size and not _needs_pillow(data):
        try:
            image = cv2.imdecode(data, DECODE_FLAGS[reduce])
        except cv2.error:  # for example more pixels than OpenCV allows: Pillow gives the reason or the image
            image = None
    if image is None:
        image = _decode_with_pillow(path)
        if reduce > 1:
            h, w = image.shape[:2]
            image = cv2.resize(image, (max(w // reduce, 1), max(h // reduce, 1)), interpolation=cv2.INTER_AREA)
    return image


def image_size(path) -> tuple[int, int]:
    """(width, height) in pixels of an image file after EXIF orientation, without decoding where the format allows.

    Raises FileNotFoundError, or ValueError with the path and the reason if it is no image, or a truncated one.
    """
    from PIL import Image

    try:
        with open(path, "rb") as file, Image.open(file) as image:
            _check_samples(image)
            w, h = image.size
            if image.format == "PNG" and b"eXIf" not in Path(path).read_bytes():
                image.verify()  # checksums; getexif() would decode
                return w, h
            if not _is_whole_jpeg(file):
                image.load()  # decodes, and so finds out what is missing
            return (h, w) if image.getexif().get(EXIF_ORIENTATION, 1) >= 5 else (w, h)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except Image.UnidentifiedImageError:
        h, w = read_image(path).shape[:2]  # what Pillow cannot read, OpenCV may (16-bit RGB TIFF)
        return w, h
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(_broken(path, error)) from None


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
    Path(path).write_bytes(encoded.tobytes())


def _read_bytes(path) -> np.ndarray:
    try:
        return np.fromfile(path, np.uint8)  # not cv2.imread: it fails on non-ASCII paths under Windows
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except OSError as error:
        raise ValueError(_broken(path, error)) from None


def _needs_pillow(data: np.ndarray) -> bool:
    """True for what some OpenCV versions decode wrongly without a word: truncated JPEGs and rotated WebPs."""
    head = data[:12].tobytes()
    if head[8:] == b"WEBP":
        return b"EXIF" in data.tobytes()
    return head.startswith(JPEG_START) and data[-2:].tobytes() != JPEG_END


def _decode_with_pillow(path) -> np.ndarray:
    """The slow second try: reads some rare formats, and says what is wrong with a broken file."""
    try:
        from PIL import Image, ImageOps
    except ImportError:  # it is not among the packages for exported files
        raise ValueError(_broken(path, "OpenCV cannot decode it, and Pillow is not installed to try")) from None
    try:
        with Image.open(path) as image:
            _check_samples(image)
            rgb = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Image.UnidentifiedImageError:
        raise ValueError(f"{path}: not an image, or its header is damaged") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(_broken(path, error)) from None
    return np.ascontiguousarray(rgb[..., ::-1])


def _check_samples(image) -> None:
    """32-bit samples have no agreed range, so they cannot be brought to 8 bits. (Pillow calls a 16-bit PNG "I".)"""
    if image.format == "TIFF" and image.mode in ("F", "I"):
        raise ValueError("expected 8 or 16 bits per sample, found 32")


def _is_whole_jpeg(file) -> bool:
    """True if the open file starts and ends as a JPEG. Without the end marker it is truncated, or has a trailer."""
    file.seek(0)
    starts = file.read(2) == JPEG_START
    file.seek(-2, os.SEEK_END)
    return starts and file.read() == JPEG_END


def _broken(path, error) -> str:
    return f"{path}: broken image: {error}"
