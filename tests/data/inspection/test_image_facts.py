"""What is found in one file: its hashes, its size, its light, and what is wrong with it."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from scipy.fft import dctn

from animals_pl.data.decode import decode, decodes
from animals_pl.data.inspection.image_facts import (
    COLOUR_SIDE,
    HASH_SIDE,
    THUMBNAIL,
    ImageFacts,
    inspect,
    perceptual_hash,
    structure,
)
from animals_pl.data.problems import jpeg_zeros
from animals_pl.data.walk import find_images


def scene(height=120, width=160, seed=0):
    """Return a picture with structure at every scale, like an image."""
    rng = np.random.default_rng(seed)
    layers = [rng.normal(0, strength, (side, side, 3)) for side, strength in ((3, 60), (8, 40), (24, 20))]
    sized = [
        np.stack(
            [
                np.asarray(Image.fromarray(layer[..., c].astype(np.float32)).resize((width, height), 3))
                for c in range(3)
            ],
            -1,
        )
        for layer in layers
    ]
    return (128 + np.sum(sized, axis=0)).clip(0, 255).astype(np.uint8)


def encoded(pixels, kind, **options):
    stream = io.BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(stream, kind, **options)
    return stream.getvalue()


def written(folder, content, name="photo.jpg"):
    (folder / name).write_bytes(content)
    return folder / name


DIGITS = HASH_SIDE * HASH_SIDE // 4
"""Hexadecimal digits of a perceptual hash's structure; its colours follow."""


def bits(text):
    return np.unpackbits(np.frombuffer(bytes.fromhex(text[:DIGITS]), np.uint8))


def differing(one, other):
    """Return the bits in which the structures of two hashes differ."""
    return int((bits(one) != bits(other)).sum())


def colours(text):
    """Return the (4, 4, 3) mean colours that a hash ends in."""
    return np.frombuffer(bytes.fromhex(text[DIGITS:]), np.uint8).reshape(COLOUR_SIDE, COLOUR_SIDE, 3).astype(int)


def field_means(pixels):
    """Return the mean colour of each of 4 × 4 equal fields of a thumbnail, across and then down."""
    side = THUMBNAIL // COLOUR_SIDE
    across = rounded(pixels.reshape(THUMBNAIL, COLOUR_SIDE, side, 3).mean(axis=2))
    return rounded(across.reshape(COLOUR_SIDE, side, COLOUR_SIDE, 3).mean(axis=1)).astype(int)


def grey_levels(pixels):
    """Return the luma of ITU-R BT.601, rounded, of an (H, W, 3) image, in 16-bit integers as Pillow has it."""
    return ((pixels.astype(np.int64) @ [19595, 38470, 7471] + 32768) >> 16).astype(np.float64)


def rounded(values):
    """Round halves up, as Pillow does after each direction of a resize."""
    return np.floor(values + 0.5)


def lanczos(length, size):
    """Return the (size, length) weights of Lanczos' filter with three lobes, widened to the scale."""
    scale = max(length / size, 1)
    places = ((np.arange(length) + 0.5)[None] - ((np.arange(size) + 0.5) * length / size)[:, None]) / scale
    weights = np.where(np.abs(places) < 3, np.sinc(places) * np.sinc(places / 3), 0)
    return weights / weights.sum(axis=1, keepdims=True)


def signs_of_transform(thumbnail):
    low = dctn(np.asarray(thumbnail, np.float64))[:HASH_SIDE, :HASH_SIDE]
    return np.packbits(low > 0).tobytes().hex()


def middle_of(grey):
    """Return the middle 90 % of each side of a thumbnail at its whole size, interpolated linearly."""
    pixel = np.arange(THUMBNAIL)
    places = THUMBNAIL * 0.05 + (pixel + 0.5) * 0.9 - 0.5
    rows = np.stack([np.interp(places, pixel, row) for row in grey])
    return np.stack([np.interp(places, pixel, column) for column in rows.T], axis=1)


# What is known about a file


@pytest.mark.parametrize(
    "content", [b"some text", b"\0" * 5000, encoded(scene(), "JPEG")], ids=["text", "zeros", "jpeg"]
)
def test_content_hash_size_and_time_are_the_files(tmp_path, content):
    file = written(tmp_path, content)
    os.utime(file, ns=(1, 1_600_000_000_123_456_789))
    found = inspect(file)
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert (found.bytes, found.modified) == (len(content), 1_600_000_000_123_456_789)
    assert inspect(str(file)) == found


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("PNG", "RGB", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "LA", {}),
        ("PNG", "L", {}),
        ("PNG", "P", {}),
        ("PNG", "1", {}),
        ("PNG", "I;16", {}),
        ("WEBP", "RGB", {}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
        ("TIFF", "RGB", {}),
        ("TIFF", "CMYK", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ],
)
def test_healthy_file_of_every_kind_has_no_problem(tmp_path, kind, mode, options):
    pixels = scene(90, 140)
    picture = Image.fromarray((grey_levels(pixels) * 257).astype(np.uint16)) if mode == "I;16" else None
    picture = picture or Image.fromarray(pixels).convert(mode)
    file = written(tmp_path, encoded(picture, kind, **options))
    found = inspect(file)
    with Image.open(file) as opened:
        assert found.mode == opened.mode
    assert found.problem == ""
    assert (found.width, found.height, found.orientation) == (140, 90, 1)
    plain = inspect(written(tmp_path, encoded(pixels, "PNG"), "plain.png"))
    assert len(found.perceptual_hash) == len(found.centre_hash) == DIGITS + 6 * COLOUR_SIDE**2
    if mode not in ("1", "L", "LA", "I;16", "P"):
        assert np.abs(colours(found.perceptual_hash) - colours(plain.perceptual_hash)).max() <= 6
    assert differing(found.perceptual_hash, plain.perceptual_hash) <= (60 if mode == "1" else 12)
    assert found.brightness == pytest.approx(plain.brightness, abs=2)


def test_16_bit_grey_keeps_its_light(tmp_path):
    grey = grey_levels(scene())
    deep = inspect(written(tmp_path, encoded((grey * 257).astype(np.uint16), "PNG")))
    shallow = inspect(written(tmp_path, encoded(grey.astype(np.uint8), "PNG")))
    assert (deep.mode, shallow.mode) == ("I;16", "L")
    assert deep[1:3] + deep[9:] == shallow[1:3] + shallow[9:]


def test_animation_is_judged_by_its_first_frame(tmp_path):
    first, second = (Image.fromarray(scene(seed=seed)) for seed in (1, 2))
    moving = inspect(written(tmp_path, encoded(first, "GIF", save_all=True, append_images=[second])))
    still = inspect(written(tmp_path, encoded(first, "GIF")))
    assert (moving.perceptual_hash, moving.problem) == (still.perceptual_hash, "")


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}
"""What the EXIF standard says about each value: where row 0 and column 0 of the stored pixels stand."""


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(("kind", "few"), [("JPEG", 12), ("PNG", 6), ("WEBP", 12), ("TIFF", 6)])
def test_exif_orientation_is_applied(tmp_path, orientation, kind, few):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = inspect(written(tmp_path, encoded(scene(), kind, exif=exif)))
    upright = inspect(written(tmp_path, encoded(np.ascontiguousarray(UPRIGHT[orientation](scene())), kind), "upright"))
    assert (found.orientation, upright.orientation) == (orientation, 1)
    assert (found.width, found.height) == (upright.width, upright.height)
    assert differing(found.perceptual_hash, upright.perceptual_hash) <= few
    assert differing(found.centre_hash, upright.centre_hash) <= few
    assert np.abs(colours(found.perceptual_hash) - colours(upright.perceptual_hash)).max() <= 3
    assert found.detail == pytest.approx(upright.detail, abs=0.3)


def test_orientations_hash_apart(tmp_path):
    hashes = [
        inspect(written(tmp_path, encoded(np.ascontiguousarray(turn(scene())), "PNG"))).perceptual_hash
        for turn in UPRIGHT.values()
    ]
    assert min(differing(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) > 60


def test_unknown_exif_orientation_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 42
    found = inspect(written(tmp_path, encoded(scene(), "PNG", exif=exif)))
    assert found._replace(sha256="", bytes=0, modified=0) == inspect(
        written(tmp_path, encoded(scene(), "PNG"))
    )._replace(sha256="", bytes=0, modified=0)


# Light


@pytest.mark.parametrize("seed", range(8))
def test_light_of_a_picture_of_the_thumbnails_size_is_exact(tmp_path, seed):
    pixels = scene(THUMBNAIL, THUMBNAIL, seed)
    found, grey = inspect(written(tmp_path, encoded(pixels, "PNG"))), grey_levels(pixels)
    assert found.brightness == round(grey.mean(), 2)
    assert found.contrast == round(grey.std(), 2)
    assert found.detail == round(np.abs(np.diff(grey, axis=0)).mean(), 2)
    assert found.perceptual_hash[:DIGITS] == signs_of_transform(grey)


@pytest.mark.parametrize("shape", [(90, 64), (32, 95), (20, 24), (77, 33)])
def test_light_and_hash_are_those_of_an_independent_thumbnail(tmp_path, shape):
    pixels = scene(*shape, seed=5)
    found = inspect(written(tmp_path, encoded(pixels, "PNG")))
    down, across = (lanczos(side, THUMBNAIL) for side in shape)
    thumbnail = (down @ grey_levels(pixels) @ across.T).clip(0, 255)
    assert found.brightness == pytest.approx(thumbnail.mean(), abs=0.1)
    assert found.contrast == pytest.approx(thumbnail.std(), abs=0.1)
    assert found.detail == pytest.approx(np.abs(np.diff(thumbnail, axis=0)).mean(), abs=0.1)
    assert differing(found.perceptual_hash, signs_of_transform(thumbnail)) <= 8


def test_stripes_have_detail_only_down_the_picture(tmp_path):
    stripes = np.tile(np.uint8([[0], [200]]), (THUMBNAIL // 2, THUMBNAIL))
    assert inspect(written(tmp_path, encoded(stripes, "PNG"))).detail == 200
    assert inspect(written(tmp_path, encoded(np.ascontiguousarray(stripes.T), "PNG"))).detail == 0


@pytest.mark.parametrize("level", [0, 7, 128, 255])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_flat_picture_has_no_hashes_and_no_problem(tmp_path, level, kind):
    found = inspect(written(tmp_path, encoded(np.full((50, 70, 3), level, np.uint8), kind)))
    assert (found.perceptual_hash, found.centre_hash, found.problem) == ("", "", "")
    assert (found.brightness, found.contrast, found.detail) == (level, 0, 0)
    assert (found.width, found.height) == (70, 50)


@pytest.mark.parametrize(("step", "hashed"), [(1, False), (3, True)])
def test_flat_is_below_one_grey_level_of_deviation(tmp_path, step, hashed):
    halves = np.repeat(np.uint8([100, 100 + step]), THUMBNAIL // 2)[None].repeat(THUMBNAIL, axis=0)
    found = inspect(written(tmp_path, encoded(halves, "PNG")))
    assert found.contrast == step / 2
    assert bool(found.perceptual_hash) == bool(found.centre_hash) == hashed


# Hashes


def grey_thumbnail(seed):
    return grey_levels(scene(THUMBNAIL, THUMBNAIL, seed)).astype(np.uint8)


@pytest.mark.parametrize("seed", range(40))
def test_structure_is_the_signs_of_the_cosine_transform(seed):
    grey = np.random.default_rng(seed).integers(0, 256, (THUMBNAIL, THUMBNAIL))
    found = structure(grey.astype(np.float32))
    assert (found.shape, found.dtype) == ((HASH_SIDE * HASH_SIDE // 8,), np.uint8)
    assert found.tobytes().hex() == signs_of_transform(grey)


@pytest.mark.parametrize("seed", range(20))
def test_structure_is_imagehashs_cut_at_zero(seed, monkeypatch):
    grey = grey_thumbnail(seed)
    monkeypatch.setattr(imagehash.numpy, "median", lambda coefficients: 0.0)
    expected = imagehash.phash(Image.fromarray(grey), hash_size=HASH_SIDE, highfreq_factor=THUMBNAIL // HASH_SIDE)
    assert structure(grey.astype(np.float32)).tobytes().hex() == str(expected)


@pytest.mark.parametrize("seed", range(20))
def test_hash_is_the_structure_and_the_colours_of_the_fields(tmp_path, seed):
    pixels = scene(THUMBNAIL, THUMBNAIL, seed)
    found = perceptual_hash(Image.fromarray(pixels))
    assert found == inspect(written(tmp_path, encoded(pixels, "PNG"))).perceptual_hash
    assert found[:DIGITS] == signs_of_transform(grey_levels(pixels))
    assert colours(found).tolist() == field_means(pixels).tolist()


@pytest.mark.parametrize("field", range(COLOUR_SIDE**2))
def test_colours_stand_row_by_row_red_green_blue(field):
    pixels = np.zeros((THUMBNAIL, THUMBNAIL, 3), np.uint8)
    row, column = divmod(field, COLOUR_SIDE)
    side = THUMBNAIL // COLOUR_SIDE
    pixels[row * side : (row + 1) * side, column * side : (column + 1) * side] = (200, 100, 50)
    expected = np.zeros((COLOUR_SIDE**2, 3), int)
    expected[field] = (200, 100, 50)
    assert colours(perceptual_hash(Image.fromarray(pixels))).reshape(-1, 3).tolist() == expected.tolist()


@pytest.mark.parametrize("seed", range(20))
def test_second_hash_is_that_of_the_middle(tmp_path, seed):
    grey = grey_thumbnail(seed)
    found = inspect(written(tmp_path, encoded(grey, "PNG"))).centre_hash
    middle = middle_of(grey)
    assert differing(found, signs_of_transform(middle)) <= 6  # rounding turns the signs of coefficients next to zero
    assert np.abs(colours(found) - field_means(np.stack([middle] * 3, axis=-1))).max() <= 1


# Problems


def facts_of(found):
    """Return what is only known of a picture that could be decoded."""
    return found.perceptual_hash, found.centre_hash, found.brightness, found.contrast, found.detail


NOTHING = ("", "", 0, 0, 0)


def test_empty_file(tmp_path):
    found = inspect(written(tmp_path, b""))
    assert found == ImageFacts(
        sha256=hashlib.sha256(b"").hexdigest(), modified=found.modified, problem="empty file (0 bytes)"
    )


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"\0" * 4096, ""),
        (b"\xff\xd8", ""),
        (b"GIF89a", ""),
        (b"\x89PNG\r\n\x1a\n", ""),
        (b"404 Not Found", ""),
        (b"\n<!DOCTYPE HTML><html>404 Not Found</html>", " (a web page)"),
        (b"<html>404 Not Found</html>\n" * 40, " (a web page)"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', " (SVG)"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500), " (HEIC)"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(500), " (HEIC)"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", " (JPEG XL)"),
        (b"II*\0\x08\0\0\0\0\0", " (TIFF with an unusual pixel type)"),
    ],
)
def test_what_is_no_image(tmp_path, content, name):
    found = inspect(written(tmp_path, content))
    assert found.problem == f"not an image in a supported format{name}"
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert facts_of(found) == NOTHING


@pytest.mark.parametrize("make", ["missing", "folder", "dangling link", "link to itself"])
def test_path_that_cannot_be_read(tmp_path, make):
    file = tmp_path / "photo.jpg"
    if make == "folder":
        file.mkdir()
    elif make == "dangling link":
        file.symlink_to(tmp_path / "gone.jpg")
    elif make == "link to itself":
        file.symlink_to(file)
    found = inspect(file)
    assert found.problem.startswith("cannot be read: ")
    assert found == ImageFacts(problem=found.problem)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads every file")
def test_file_without_permission(tmp_path):
    file = written(tmp_path, encoded(scene(), "JPEG"))
    file.chmod(0)
    assert inspect(file) == ImageFacts(problem="cannot be read: Permission denied")


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"quality": 100, "subsampling": 0}),
        ("PNG", {}),
        ("BMP", {}),
        ("GIF", {}),
        ("TIFF", {}),
    ],
    ids=["jpeg", "progressive", "jpeg 100", "png", "bmp", "gif", "tiff"],
)
def test_file_cut_short(tmp_path, kind, options, fraction):
    noise = np.random.default_rng(0).integers(0, 256, (160, 240, 3)).astype(np.uint8)
    whole = encoded(noise, kind, **options)
    assert inspect(written(tmp_path, whole)).problem == ""
    cut = whole[: int(len(whole) * fraction)]
    found = inspect(written(tmp_path, cut))
    assert found.problem.startswith("truncated: ")
    assert facts_of(found) == NOTHING
    assert (found.bytes, found.sha256) == (len(cut), hashlib.sha256(cut).hexdigest())


@pytest.mark.parametrize("fraction", [0.02, 0.5, 0.99])
def test_webp_cut_short_is_damaged(tmp_path, fraction):
    whole = encoded(scene(), "WEBP")
    assert inspect(written(tmp_path, whole[: int(len(whole) * fraction)])).problem


def test_size_of_a_damaged_picture_is_told_where_its_header_is_whole(tmp_path):
    whole = encoded(scene(120, 160), "JPEG")
    found = inspect(written(tmp_path, whole[: len(whole) // 2]))
    assert (found.width, found.height, found.mode) == (160, 120, "RGB")


def test_damaged_png(tmp_path):
    content = bytearray(encoded(scene(), "PNG"))
    middle = len(content) // 2
    content[middle : middle + 100] = bytes(100)
    found = inspect(written(tmp_path, bytes(content)))
    assert found.problem.startswith("damaged: ")
    assert facts_of(found) == NOTHING


def png_of_zeros(side):
    """Return a PNG of black pixels, of one bit each, without holding them."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, row = zlib.compressobj(9), bytes(1 + side // 8)
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [20_000, 10_000], ids=["above Pillow's bound", "above its warning"])
def test_decompression_bomb(tmp_path, side, recwarn, monkeypatch):
    file = written(tmp_path, png_of_zeros(side), "bomb.png")
    assert file.stat().st_size < 100_000
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda picture: pytest.fail("the bomb was unpacked"))
    found = inspect(file)
    assert found.problem.startswith("decompression bomb: ")
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert facts_of(found) == NOTHING
    assert not recwarn.list


# Whatever the file holds


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("any")


STARTS = [
    b"",
    b"\xff\xd8\xff\xe0\x00\x10JFIF",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"RIFF\x00\x00\x00\x00WEBPVP8 ",
    b"BM",
    b"II*\x00",
]


def check(file, content):
    """Inspect whatever bytes and hold what is true of every result."""
    found = inspect(written(file.parent, content, file.name))
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert isinstance(found.problem, str) and "\n" not in found.problem
    assert {type(value) for value in found} <= {str, int, float}
    if found.problem:
        assert facts_of(found) == NOTHING
    return found


@settings(max_examples=50, deadline=None)
@given(start=st.sampled_from(STARTS), rest=st.binary(max_size=300))
def test_random_bytes_never_raise(folder, start, rest):
    found = check(folder / "random.jpg", start + rest)
    assert found.problem or found.width * found.height > 0


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_damaged_file_never_raises(folder, kind, data):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    options = {} if kind == "GIF" else {"exif": exif}
    content = bytearray(encoded(scene(48, 64), kind, **options))
    place = st.tuples(st.integers(0, len(content) - 1) | st.integers(0, 200), st.integers(0, 255))
    for index, value in data.draw(st.lists(place, min_size=1, max_size=8)):
        content[index] = value
    check(folder / "damaged.jpg", bytes(content))


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("kind", ["healthy", "cut", "text", "empty", "missing"])
def test_pillows_own_setting_is_left_as_it_was(tmp_path, monkeypatch, before, kind):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", before)
    whole = encoded(scene(), "JPEG")
    content = {"healthy": whole, "cut": whole[: len(whole) // 2], "text": b"text", "empty": b""}
    file = written(tmp_path, content[kind]) if kind in content else tmp_path / "missing.jpg"
    inspect(file)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is before


def test_what_inspection_refuses_as_cut_short_is_still_decoded(tmp_path):
    whole = encoded(scene(), "JPEG")
    file = written(tmp_path, whole[: len(whole) // 2])
    for _ in range(2):
        assert inspect(file).problem.startswith("truncated")
        assert np.array_equal(decode(file)[:16], decode(whole)[:16])


def jpeg(picture: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", **options)
    return stream.getvalue()


PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}])
@pytest.mark.parametrize("kept", [0.49, 0.9])
def test_jpeg_that_ends_in_zeros_is_truncated(tmp_path, options, kept):
    content = jpeg(PICTURE, **options)
    length = int(kept * len(content))
    (tmp_path / "a.jpg").write_bytes(content[:length] + bytes(len(content) - length))
    facts = inspect(tmp_path / "a.jpg")
    assert facts.problem == f"truncated: the last {1 - kept:.0%} of the file is all zeros".replace("%", " %")
    assert (facts.width, facts.height) == (128, 96)
    assert decodes(tmp_path / "a.jpg")


def test_zeros_after_the_end_of_a_jpeg_are_padding(tmp_path):
    thumbnail = jpeg(PICTURE.resize((16, 12)))
    exif = b"Exif\0\0" + thumbnail  # a segment with a complete JPEG in it
    content = jpeg(PICTURE, exif=exif)
    for name, tail in {"padded": bytes(100), "garbage": b"\xff\xdagarbage" + bytes(9)}.items():
        (tmp_path / name).write_bytes(content + tail)
        assert inspect(tmp_path / name).problem == ""
    length = len(content) // 2
    assert jpeg_zeros(content[:length] + bytes(length)) >= length


def test_padding_between_the_images_of_an_mpo_is_no_problem(tmp_path):
    PICTURE.save(tmp_path / "a.mpo", save_all=True, append_images=[PICTURE.resize((64, 48))])
    content = (tmp_path / "a.mpo").read_bytes()
    assert inspect(tmp_path / "a.mpo").problem == ""
    assert jpeg_zeros(content + bytes(50)) == 0


@pytest.mark.slow
def test_no_real_image_ends_in_zeros(animals10_root):
    assert not any(jpeg_zeros(file.read_bytes()) for file in find_images(animals10_root))
