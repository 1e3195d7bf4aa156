import io
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.conftest import SHARED, needs_shared
from utils.data.images import find_images, image_size, read_image, write_image

H, W = 40, 60


def quadrants() -> np.ndarray:
    """RGB image [40, 60, 3] with four colours, so that every orientation looks different."""
    image = np.zeros((H, W, 3), np.uint8)
    image[:20, :30], image[:20, 30:], image[20:, :30], image[20:, 30:] = (
        (200, 0, 0),
        (0, 200, 0),
        (0, 0, 200),
        (200, 200, 0),
    )
    return image


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_pixels_and_size(tmp_path, suffix, orientation):
    file = tmp_path / f"a.{suffix}"
    image, exif = Image.fromarray(quadrants()), Image.Exif()
    exif[274] = orientation
    image.save(file, exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))[..., ::-1].astype(int)
    found = read_image(file)
    assert found.shape == upright.shape
    assert np.abs(found - upright).mean() < 3
    assert image_size(file) == (found.shape[1], found.shape[0])
    assert (image_size(file) == (H, W)) == (orientation >= 5)


KINDS = [
    # (name, array as cv2 writes it, expected BGR of the pixel at row 5, column 7, what the row proves)
    ("grey.png", np.full((H, W), 77, np.uint8), (77, 77, 77)),  # one channel becomes three
    ("grey.jpg", np.full((H, W), 77, np.uint8), (77, 77, 77)),
    ("grey16.png", np.full((H, W), 77 * 256 + 9, np.uint16), (77, 77, 77)),  # 16 bits become 8
    ("grey16.tiff", np.full((H, W), 77 * 256 + 9, np.uint16), (77, 77, 77)),
    ("colour16.png", np.full((H, W, 3), (256, 512, 1024), np.uint16), (1, 2, 4)),
    ("colour16.tif", np.full((H, W, 3), (2560, 5120, 10240), np.uint16), (10, 20, 40)),  # Pillow cannot open it
    ("alpha.png", np.full((H, W, 4), (10, 20, 30, 40), np.uint8), (10, 20, 30)),  # alpha is dropped, not blended
    ("colour.bmp", np.full((H, W, 3), (10, 20, 30), np.uint8), (10, 20, 30)),
    ("UPPER.PNG", np.full((H, W, 3), (10, 20, 30), np.uint8), (10, 20, 30)),
    ("größe 图.png", np.full((H, W, 3), (10, 20, 30), np.uint8), (10, 20, 30)),  # non-ASCII file name
]


@pytest.mark.parametrize("name,pixels,expected", KINDS, ids=[kind[0] for kind in KINDS])
def test_every_kind_becomes_uint8_bgr(tmp_path, name, pixels, expected):
    file = tmp_path / name
    file.write_bytes(cv2.imencode(Path(name).suffix.lower(), pixels)[1].tobytes())
    image = read_image(file)
    assert image.dtype == np.uint8 and image.shape == (H, W, 3)
    assert np.abs(image[5, 7].astype(int) - expected).max() <= 1
    assert image_size(file) == (W, H)


@pytest.mark.parametrize("mode,suffix", [("P", "png"), ("1", "png"), ("LA", "png"), ("CMYK", "jpg"), ("RGBA", "webp")])
def test_pillow_modes_look_like_pillow_says(tmp_path, mode, suffix):
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(quadrants()).convert(mode).save(file)
    expected = np.asarray(Image.open(file).convert("RGB"))[..., ::-1].astype(int)
    assert np.abs(read_image(file) - expected).mean() < 3


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "bmp"])
@pytest.mark.parametrize("left", [0.0, 0.01, 0.5, 0.95])
def test_truncated_file_is_a_value_error_with_the_path(tmp_path, suffix, left):
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (100, 100, 3), np.uint8)
    Image.fromarray(noise).save(stream, {"jpg": "jpeg"}.get(suffix, suffix))
    file = tmp_path / f"broken.{suffix}"
    file.write_bytes(stream.getvalue()[: int(len(stream.getvalue()) * left)])
    for function in (read_image, image_size):
        with pytest.raises(ValueError, match=r"broken\.") as error:
            function(file)
        assert str(file) in str(error.value)


def test_damaged_png_checksum_is_found_without_decoding(tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (100, 100, 3), np.uint8)).save(file)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(ValueError, match="a.png"):
        image_size(file)


def test_jpeg_with_a_trailer_is_whole(tmp_path):
    file = tmp_path / "a.jpg"
    Image.fromarray(quadrants()).save(file)
    expected = read_image(file)
    file.write_bytes(file.read_bytes() + b"maker's trailer")
    assert image_size(file) == (W, H)
    np.testing.assert_array_equal(read_image(file), expected)


def test_other_mistakes_say_what_was_found(tmp_path):
    text = tmp_path / "text.jpg"
    text.write_text("this is no image")
    with pytest.raises(ValueError, match="not an image"):
        read_image(text)
    with pytest.raises(ValueError, match="not an image"):
        image_size(text)
    for function in (read_image, image_size):
        with pytest.raises(FileNotFoundError, match="nothing.jpg"):
            function(tmp_path / "nothing.jpg")
        with pytest.raises(ValueError, match=str(tmp_path)):
            function(tmp_path)  # a folder
    floats = tmp_path / "floats.tiff"
    Image.fromarray(np.zeros((H, W), np.float32)).save(floats)
    for function in (read_image, image_size):
        with pytest.raises(ValueError, match="expected 8 or 16 bits per sample, found 32"):
            function(floats)


@pytest.mark.parametrize("reduce", [2, 4, 8])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff"])
def test_reduced_decoding_is_the_same_picture_smaller(tmp_path, reduce, suffix):
    file = tmp_path / f"a.{suffix}"
    smooth = cv2.resize(np.random.default_rng(0).integers(0, 255, (4, 5, 3), np.uint8), (168, 120))
    write_image(file, smooth)
    small = read_image(file, reduce)
    assert small.shape == (120 // reduce, 168 // reduce, 3)
    expected = cv2.resize(smooth, small.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - expected).mean() < 4


@needs_shared
def test_real_jpegs_have_the_pixels_of_imread():
    files = sorted((SHARED / "datasets/coco256/images/val2017").glob("*.jpg"))[:16]
    assert len(files) == 16
    for file in files:
        image = read_image(file)
        np.testing.assert_array_equal(image, cv2.imread(str(file)))
        assert image_size(file) == (image.shape[1], image.shape[0])


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff"])
def test_written_image_reads_back(tmp_path, suffix):
    image = quadrants()
    write_image(tmp_path / f"ü.{suffix}", image)
    np.testing.assert_array_equal(read_image(tmp_path / f"ü.{suffix}"), image)


def test_write_failures_are_os_errors(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        write_image(tmp_path / "nowhere" / "a.png", quadrants())
    with pytest.raises(OSError, match="a.xyz"):
        write_image(tmp_path / "a.xyz", quadrants())


class TestFindImages:
    @pytest.fixture
    def tree(self, tmp_path, monkeypatch) -> Path:
        for name in ("a/2.jpg", "a/1.PNG", "a/sub/3.webp", "a/notes.txt", "a/4.npy", "b[1]/5.bmp"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"")
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def test_folders_are_searched_deeply_and_sorted(self, tree):
        assert find_images("a") == ["a/1.PNG", "a/2.jpg", "a/sub/3.webp"]
        assert find_images(tree / "b[1]") == [str(tree / "b[1]" / "5.bmp")]  # brackets are no pattern
        assert find_images(["b[1]", "a"]) == ["a/1.PNG", "a/2.jpg", "a/sub/3.webp", "b[1]/5.bmp"]
        assert find_images("a/2.jpg") == ["a/2.jpg"]

    def test_list_file_entries(self, tree):
        list_file = tree / "lists" / "train.txt"
        list_file.parent.mkdir()
        (tree / "lists" / "6.jpg").write_bytes(b"")
        entries = [
            "./../a/2.jpg",  # ./ is the list's folder
            "a/1.PNG",  # relative to the working folder, where it exists
            "6.jpg",  # else to the list's folder
            "",  # blank lines are skipped
            str(tree / "a" / "sub" / "3.webp"),  # absolute
        ]
        list_file.write_text("\n".join(entries))
        expected = [tree / "a/2.jpg", Path("a/1.PNG"), tree / "lists/6.jpg", tree / "a/sub/3.webp"]
        assert find_images(list_file) == sorted(str(file) for file in expected)
        assert len(find_images([list_file, "b[1]"])) == 5

    def test_mistakes(self, tree):
        (tree / "empty").mkdir()
        with pytest.raises(FileNotFoundError, match="missing: no such folder or list file"):
            find_images(["a", "missing"])
        with pytest.raises(FileNotFoundError, match="empty: no images found"):
            find_images(os.path.join(tree, "empty"))
