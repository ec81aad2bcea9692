"""Decoding files of every kind to RGB, and the resizing that evaluation uses."""

import io
import re
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from timm.data import create_transform

from animals_pl.data.decode import MAX_PIXEL_RATIO, decode, open_image, to_rgb, use_image
from animals_pl.data.inspection.image_facts import ImageFacts, inspect
from animals_pl.data.resize import Resize
from animals_pl.errors import UsageError

FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
"""Pillow's own numbers for its filters."""

QUADRANTS = np.array([[[220, 30, 30], [30, 200, 40]], [[30, 40, 210], [230, 220, 40]]], np.uint8)
"""Red, green / blue, yellow."""


def quadrants(height=32, width=48):
    """Return four flat colours: unlike under every rotation and mirroring, and kind to JPEG."""
    return QUADRANTS.repeat(height // 2, axis=0).repeat(width // 2, axis=1)


def smooth(height, width):
    """Return a smooth colourful picture."""
    y, x = np.mgrid[:height, :width] / 9
    return (127.5 + 90 * np.stack([np.sin(x), np.cos(y), np.sin(x + y)], axis=-1)).astype(np.uint8)


def encoded(picture, kind, **options):
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def distance(one, other):
    """Return the largest difference of two images of the same shape."""
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.fixture
def inspect_bytes(tmp_path):
    """Function that writes a file and returns the facts about it."""

    def check(content) -> ImageFacts:
        (tmp_path / "file").write_bytes(content)
        return inspect(tmp_path / "file")

    return check


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_result_is_a_writable_rgb_array(tmp_path):
    Image.fromarray(quadrants()).save(tmp_path / "a.png")
    image = decode(tmp_path / "a.png")
    assert (image.shape, image.dtype) == ((32, 48, 3), np.uint8)
    assert image.flags.writeable and image.flags.c_contiguous
    assert np.array_equal(image, quadrants())


def test_path_text_and_bytes_give_the_same(tmp_path):
    file = tmp_path / "a.jpg"
    Image.fromarray(smooth(20, 30)).save(file)
    assert np.array_equal(decode(file), decode(str(file)))
    assert np.array_equal(decode(file), decode(file.read_bytes()))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_rgb_keeps_its_colours(kind):
    image = smooth(40, 56)
    assert distance(decode(encoded(Image.fromarray(image), kind, quality=100)), image) <= 16


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_lossless_rgb_is_exact(kind, options):
    image = smooth(21, 34)
    assert np.array_equal(decode(encoded(Image.fromarray(image), kind, **options)), image)


def test_grey_jpeg_becomes_three_equal_channels():
    grey = smooth(24, 40)[..., 0]
    image = decode(encoded(Image.fromarray(grey), "JPEG", quality=100))
    assert image.shape == (24, 40, 3)
    assert distance(image, np.stack([grey] * 3, axis=-1)) <= 4
    assert np.array_equal(image[..., 0], image[..., 1]) and np.array_equal(image[..., 0], image[..., 2])


def test_cmyk_jpeg_keeps_its_colours():
    image = quadrants()
    cmyk = np.concatenate([255 - image, np.zeros((*image.shape[:2], 1), np.uint8)], axis=-1)
    picture = Image.frombytes("CMYK", (48, 32), cmyk.tobytes())
    assert distance(decode(encoded(picture, "JPEG", quality=100)), image) <= 6


def test_cmyk_black_ink_darkens():
    picture = Image.new("CMYK", (8, 8), (0, 0, 0, 200))
    assert distance(decode(encoded(picture, "JPEG", quality=100)), np.full((8, 8, 3), 55, np.uint8)) <= 3


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
@pytest.mark.parametrize(("kind", "tolerance"), [("JPEG", 6), ("PNG", 0)])
def test_exif_orientation_is_applied(orientation, kind, tolerance):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    image = decode(encoded(Image.fromarray(quadrants()), kind, exif=exif, **options))
    assert distance(image, UPRIGHT[orientation](quadrants())) <= tolerance


def test_unknown_exif_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 42
    assert np.array_equal(decode(encoded(Image.fromarray(quadrants()), "PNG", exif=exif)), quadrants())


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_truncated_file_keeps_its_top(tmp_path, kind):
    image = np.random.default_rng(0).integers(0, 256, (160, 96, 3)).astype(np.uint8)
    whole = encoded(Image.fromarray(image), kind)
    file = tmp_path / "cut.jpg"
    file.write_bytes(whole[: len(whole) * 6 // 10])
    cut = decode(file)
    assert cut.shape == image.shape
    assert np.array_equal(cut[:64], decode(whole)[:64])
    assert not np.array_equal(cut[-16:], decode(whole)[-16:])


def over_white(colour, alpha):
    """Composite by hand: alpha * colour + (1 - alpha) * white."""
    share = alpha[..., None] / 255
    return np.rint(share * colour + (1 - share) * 255).astype(np.uint8)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_transparency_is_laid_over_white(kind, options):
    alpha = np.linspace(0, 255, 32 * 48).reshape(32, 48).astype(np.uint8)
    picture = Image.fromarray(np.dstack([quadrants(), alpha]))
    image = decode(encoded(picture, kind, **options))
    assert distance(image, over_white(quadrants(), alpha)) <= 1
    assert image[0, 0].tolist() == [255, 255, 255]


def test_grey_with_alpha_is_laid_over_white():
    grey, alpha = smooth(16, 20)[..., 0], smooth(16, 20)[..., 1]
    picture = Image.fromarray(np.dstack([grey, alpha]))
    assert picture.mode == "LA"
    expected = over_white(np.stack([grey] * 3, axis=-1), alpha)
    assert distance(decode(encoded(picture, "PNG")), expected) <= 1


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_palette_colour_becomes_white(kind):
    indices = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    palette = np.array([[10, 20, 30], [200, 0, 0], [0, 0, 180]], np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette(palette.tobytes())
    expected = palette.copy()
    expected[1] = 255
    assert np.array_equal(decode(encoded(picture, kind, transparency=1)), expected[indices])
    assert np.array_equal(decode(encoded(picture, kind)), palette[indices])


def test_colour_key_of_a_grey_png_becomes_white():
    grey = np.array([[0, 100], [100, 250]], np.uint8)
    image = decode(encoded(Image.fromarray(grey), "PNG", transparency=100))
    assert image[..., 0].tolist() == [[0, 255], [255, 250]]


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path):
    grey = np.array([[0, 257, 2570], [32768, 51400, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode.startswith("I")
    image = decode(tmp_path / "a.png")
    assert image.shape == (2, 3, 3)
    assert distance(image, np.stack([np.rint(grey / 257)] * 3, axis=-1)) <= 1
    assert image[1, 2].tolist() == [255, 255, 255]
    assert image[0, 2].tolist() == [10, 10, 10]


RAMP = np.tile(np.linspace(0, 1, 48), (32, 1))
"""Grey from black to white."""


def uncompressed_tiff(pixels, bits, photometric, sample_format=1):
    """Return a TIFF of one grey channel; Pillow writes neither packed 12 bits nor WhiteIsZero."""
    height, width = RAMP.shape
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    entries |= {279: len(pixels), 339: sample_format}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", 10) + directory + bytes(4)


def packed_12_bits(values):
    first, second = values.astype(int).reshape(-1, 2).T
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()


DEEP = {
    "float 0…1": encoded(Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
    "float 0…1 that overshoots": encoded(Image.fromarray((1.04 * RAMP - 0.02).astype(np.float32)), "TIFF"),
    "float 0…255": encoded(Image.fromarray((RAMP * 255).astype(np.float32)), "TIFF"),
    "int32 0…255": encoded(Image.fromarray((RAMP * 255).astype(np.int32)), "TIFF"),
    "12 bits in 16": encoded(Image.fromarray((RAMP * 4095).astype(np.uint16)), "TIFF"),
    "12 bits in a PNG": encoded(Image.fromarray((RAMP * 4095).astype(np.uint16)), "PNG"),
    "packed 12 bits": uncompressed_tiff(packed_12_bits(RAMP * 4095), 12, photometric=1),
    "16 bits": encoded(Image.fromarray((RAMP * 65535).astype(np.uint16)), "TIFF"),
    "16 bits, white is zero": uncompressed_tiff(((1 - RAMP) * 65535).astype("<u2").tobytes(), 16, photometric=0),
    "float, white is zero": uncompressed_tiff((1 - RAMP).astype("<f4").tobytes(), 32, 0, sample_format=3),
    "32 bits up to 65535": uncompressed_tiff((RAMP * 65535).astype("<u4").tobytes(), 32, photometric=1),
}


@pytest.mark.parametrize("content", DEEP.values(), ids=DEEP.keys())
def test_deep_grey_is_scaled_to_8_bits(content, inspect_bytes):
    assert distance(decode(content), np.stack([RAMP * 255] * 3, axis=-1)) <= 6
    facts = inspect_bytes(content)
    assert facts.problem == ""
    assert facts.brightness == pytest.approx(127.5, abs=2)


PROBLEMS = {
    "linear light": encoded(Image.fromarray((RAMP * 8).astype(np.float32)), "TIFF"),
    "negative": encoded(Image.fromarray((2 * RAMP - 1).astype(np.float32)), "TIFF"),
    "not a number": encoded(Image.fromarray(np.where(RAMP > 0.9, np.nan, RAMP).astype(np.float32)), "TIFF"),
    "class numbers": encoded(Image.fromarray((RAMP * 7).astype(np.int32)), "TIFF"),
    "32 bits": encoded(Image.fromarray((RAMP * 2e9).astype(np.int32)), "TIFF"),
}


@pytest.mark.parametrize("content", PROBLEMS.values(), ids=PROBLEMS.keys())
def test_grey_without_a_known_range_is_a_problem(content, inspect_bytes):
    problem = inspect_bytes(content).problem
    assert re.fullmatch(
        r"grey values (from \S+ to \S+ are not in 0…1, 0…255, 0…4095 or 0…65535"
        r"|up to [78] would become black; scale them to 0…1, 0…255 or 0…65535)",
        problem,
    )
    with pytest.raises(UsageError, match=re.escape(f"<bytes>: {problem}.")):
        decode(content)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("white", [4095, 255])
def test_16_bit_colours_are_a_picture_or_a_problem(suffix, channels, white, inspect_bytes):
    colours = np.dstack([RAMP, RAMP[:, ::-1], RAMP, np.ones_like(RAMP)])[..., :channels]
    full, dark = (cv2.imencode(suffix, (colours * white).astype(np.uint16))[1].tobytes() for white in (65535, white))
    assert distance(decode(full), (colours[..., :3] * 255).round()) <= 1
    assert inspect_bytes(dark).problem == "16-bit colours below 4096 would become black; scale them to 0…65535"


def test_16_bit_silhouette_is_a_picture():
    silhouette = np.dstack([np.zeros((32, 48, 3)), RAMP * 65535]).astype(np.uint16)
    image = decode(cv2.imencode(".png", silhouette)[1].tobytes())
    assert distance(image, np.stack([255 - RAMP * 255] * 3, axis=-1).round()) <= 1


def test_1_bit_png_becomes_black_and_white():
    bits = np.random.default_rng(0).random((9, 11)) < 0.5
    picture = Image.fromarray(bits)
    assert picture.mode == "1"
    assert np.array_equal(decode(encoded(picture, "PNG")), np.stack([bits * 255] * 3, axis=-1))


def test_animation_gives_its_first_frame():
    first, second = Image.new("RGB", (6, 4), (200, 0, 0)), Image.new("RGB", (6, 4), (0, 0, 200))
    image = decode(encoded(first, "GIF", save_all=True, append_images=[second]))
    assert np.array_equal(image, np.full((4, 6, 3), (200, 0, 0)))


@pytest.mark.parametrize(
    "content",
    [b"", b"this is text, not an image\n" * 9, b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"\0" * 512],
    ids=["empty", "text", "jpeg marker only", "png signature only", "zeros"],
)
def test_what_is_no_image_is_refused_by_name(tmp_path, content):
    file = tmp_path / "photo.jpg"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=re.escape(str(file))) as caught:
        decode(file)
    assert "Fix or remove" in str(caught.value)
    with pytest.raises(UsageError, match="<bytes>"):
        decode(content)


@pytest.mark.parametrize("name", ["absent.jpg", "."])
def test_missing_file_and_folder_are_refused_by_name(tmp_path, name):
    with pytest.raises(UsageError, match=re.escape(str(tmp_path / name))):
        decode(tmp_path / name)


def test_decompression_bomb_is_refused_by_name(tmp_path):
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    file = tmp_path / "bomb.png"
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    with pytest.raises(UsageError, match=re.escape(str(file))) as caught:
        decode(file)
    assert "DecompressionBomb" in str(caught.value)


def test_large_but_sane_image_is_decoded_without_a_warning(monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 32 * 48 - 1)
    assert np.array_equal(decode(encoded(Image.fromarray(quadrants()), "PNG")), quadrants())
    assert not recwarn.list


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "RGB"), ("PNG", "P"), ("WEBP", "RGBA"), ("GIF", "P"), ("BMP", "RGB")]
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damaged_file_gives_an_image_or_a_usage_error(kind, mode, data):
    content = bytearray(encoded(Image.fromarray(quadrants()).convert(mode), kind))
    place = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    for index, value in data.draw(st.lists(place, min_size=1, max_size=8)):
        content[index] = value
    try:
        image = decode(bytes(content))
    except UsageError:
        return
    assert (image.dtype, image.ndim, image.shape[2]) == (np.uint8, 3, 3)


SHAPES = st.tuples(st.integers(1, 90), st.integers(1, 90))


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, size=st.integers(1, 64), interpolation=st.sampled_from(sorted(FILTERS)))
def test_stretch_equals_pillows_resize(shape, size, interpolation):
    image = np.random.default_rng(shape).integers(0, 256, (*shape, 3)).astype(np.uint8)
    result = Resize("stretch", interpolation)(image, size)
    assert (result.shape, result.dtype) == ((size, size, 3), np.uint8)
    assert np.array_equal(result, np.asarray(Image.fromarray(image).resize((size, size), FILTERS[interpolation])))


@settings(max_examples=40, deadline=None)
@given(
    shape=SHAPES,
    size=st.integers(1, 64),
    interpolation=st.sampled_from(sorted(FILTERS)),
    fraction=st.floats(0.01, 1),
)
def test_crop_gives_the_size_asked_for_and_no_new_colours(shape, size, interpolation, fraction):
    image = np.full((*shape, 3), (250, 7, 130), np.uint8)
    result = Resize("crop", interpolation, fraction)(image, size)
    assert result.dtype == np.uint8
    assert np.array_equal(result, np.full((size, size, 3), (250, 7, 130)))


@pytest.mark.parametrize("rule", ["stretch", "crop"])
@pytest.mark.parametrize("interpolation", FILTERS)
def test_square_of_the_right_size_is_left_as_it_is(rule, interpolation):
    image = np.random.default_rng(0).integers(0, 256, (37, 37, 3)).astype(np.uint8)
    assert np.array_equal(Resize(rule, interpolation)(image, 37), image)


@pytest.mark.parametrize("shape", [(40, 64), (64, 40), (40, 40)])
@pytest.mark.parametrize("side", [40, 30, 2])
def test_crop_without_scaling_cuts_the_centre_square(shape, side):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    result = Resize("crop", "nearest", side / 40)(image, side)
    assert np.array_equal(result, image[top : top + side, left : left + side])


SIZES = [(225, 300), (300, 199), (640, 427), (333, 333), (97, 640), (61, 50)]
"""Height and width of photographs."""

ROUNDING = {"bilinear": 1, "bicubic": 2, "lanczos": 2}
"""Levels: each pass of Pillow's resize rounds to integers, and negative coefficients amplify the first rounding."""


@pytest.mark.parametrize("interpolation", ROUNDING)
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize(("fraction", "short"), [(1.0, 80), (0.875, 91), (0.5, 160)])
def test_crop_is_resizing_the_short_side_and_cutting_the_centre(interpolation, shape, fraction, short):
    image, size = scene(*shape), 80
    height, width = (short * side // min(shape) for side in shape)
    whole = np.asarray(Image.fromarray(image).resize((width, height), FILTERS[interpolation]))
    top, left = round((height - size) / 2), round((width - size) / 2)
    result = Resize("crop", interpolation, fraction)(image, size)
    assert distance(result, whole[top : top + size, left : left + size]) <= ROUNDING[interpolation]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize(("size", "crop_pct"), [(224, 0.875), (224, 0.95), (64, 0.9)])
def test_crop_equals_timms_evaluation_transform(interpolation, shape, size, crop_pct):
    image = scene(*shape)
    transform = create_transform(size, interpolation=interpolation, crop_pct=crop_pct, normalize=False)
    expected = transform(Image.fromarray(image)).numpy().transpose(1, 2, 0)
    assert distance(Resize("crop", interpolation, crop_pct)(image, size), expected) <= ROUNDING[interpolation]


def test_crop_keeps_a_circle_round_and_stretch_does_not():
    y, x = np.mgrid[:100, :160]
    disc = np.where((y - 49.5) ** 2 + (x - 79.5) ** 2 < 30**2, 255, 0).astype(np.uint8)
    image = np.stack([disc] * 3, axis=-1)

    def extent(rule):
        bright = Resize(rule)(image, 50)[..., 0] > 127
        return int(bright.any(axis=1).sum()), int(bright.any(axis=0).sum())

    assert extent("crop") == (30, 30)
    assert extent("stretch") == (30, 18)


def test_crop_pct_zooms_in():
    image = np.zeros((100, 100, 3), np.uint8)
    image[25:75, 25:75] = 255
    assert Resize("crop", "nearest", 0.5)(image, 20).min() == 255
    assert (Resize("crop", "nearest", 1.0)(image, 20) == 255).mean() == 0.25


def test_every_interpolation_gives_other_pixels():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    results = {name: Resize("stretch", name)(image, 24).tobytes() for name in FILTERS}
    assert len(set(results.values())) == len(FILTERS)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_shrinking_is_antialiased(interpolation):
    stripes = np.tile(np.array([0, 255], np.uint8)[None, :, None], (64, 32, 3))
    assert distance(Resize("stretch", interpolation)(stripes, 8)[:, 1:-1], np.full((8, 6, 3), 128, np.uint8)) <= 8


def test_read_only_input_is_resized():
    image = smooth(30, 20)
    image.flags.writeable = False
    assert Resize()(image, 10).shape == (10, 10, 3)


@pytest.mark.parametrize(
    ("arguments", "named", "remedy"),
    [
        ({"rule": "squash"}, "data.resize='squash'", "stretch, crop"),
        ({"interpolation": "area"}, "data.interpolation='area'", "nearest, bilinear, bicubic, lanczos"),
        ({"rule": "crop", "crop_pct": 0.0}, "data.crop_pct=0.0", "(0, 1]"),
        ({"rule": "crop", "crop_pct": -0.5}, "data.crop_pct=-0.5", "(0, 1]"),
        ({"rule": "crop", "crop_pct": 1.01}, "data.crop_pct=1.01", "(0, 1]"),
        ({"rule": "crop", "crop_pct": float("nan")}, "data.crop_pct=nan", "(0, 1]"),
        ({"rule": "stretch", "crop_pct": 0.875}, "data.crop_pct=0.875", "data.resize=crop"),
    ],
)
def test_wrong_settings_are_refused_with_a_remedy(arguments, named, remedy):
    with pytest.raises(UsageError) as caught:
        Resize(**arguments)
    assert named in str(caught.value)
    assert remedy in str(caught.value)


def noise(height=64, width=80):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_a_file_cut_short_is_noticed_when_opened_and_used_as_far_as_it_goes(kind):
    whole = encoded(Image.fromarray(noise()), kind)
    cut = whole[: len(whole) * 6 // 10]
    with pytest.raises(OSError, match="truncated"), open_image(cut) as picture:
        picture.load()
    assert np.array_equal(use_image(cut, np.asarray)[:16], decode(whole)[:16])
    with open_image(whole) as picture:
        assert np.array_equal(np.asarray(picture), decode(whole))


@pytest.mark.parametrize("before", [True, False])
def test_pillows_own_setting_returns_after_any_end(monkeypatch, before):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", before)
    whole = encoded(Image.fromarray(noise()), "PNG")
    use_image(whole[: len(whole) // 2], np.asarray)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is before
    with pytest.raises(ZeroDivisionError):
        use_image(whole, lambda picture: 1 / 0)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is before
    with pytest.raises(Image.UnidentifiedImageError):
        use_image(b"text", np.asarray)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is before


def test_threads_may_decode_files_cut_short_side_by_side():
    whole = encoded(Image.fromarray(noise()), "JPEG")
    cut = whole[: len(whole) * 6 // 10]
    expected = decode(cut)
    with ThreadPoolExecutor(8) as pool:
        assert all(np.array_equal(image, expected) for image in pool.map(decode, [cut] * 400))


def test_odd_exif_does_not_keep_a_image_from_being_decoded_and_turned():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    content = bytearray(encoded(Image.fromarray(noise()), "JPEG", exif=exif))
    sound = decode(bytes(content))
    content[41] = 0
    assert np.array_equal(decode(bytes(content)), sound)


def black_png(side):
    """Return a PNG of black pixels, of one bit each, without holding them."""
    packer, row = zlib.compressobj(9), bytes(1 + side // 8)
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [20_000, 10_000], ids=["above Pillow's bound", "above its warning"])
def test_real_decompression_bomb_is_refused_before_it_is_unpacked(side, monkeypatch, recwarn):
    content = black_png(side)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda picture: pytest.fail("the bomb was unpacked"))
    with pytest.raises(UsageError, match="DecompressionBomb"):
        decode(content)
    assert not recwarn.list


SIDE = 120
LARGEST_BOMB = 3 * SIDE * SIDE // MAX_PIXEL_RATIO
"""Bytes of a file that unpacks to exactly so many times its size: 216."""


@pytest.mark.parametrize(
    ("limit", "size", "refused"),
    [
        (SIDE * SIDE - 1, LARGEST_BOMB - 1, True),
        (SIDE * SIDE - 1, LARGEST_BOMB, False),
        (SIDE * SIDE, LARGEST_BOMB - 1, False),
        (None, LARGEST_BOMB - 1, False),
        (SIDE * SIDE // 2, LARGEST_BOMB - 1, True),
        (SIDE * SIDE // 2, LARGEST_BOMB, False),
        (SIDE * SIDE // 2 - 1, 100 * LARGEST_BOMB, True),
    ],
    ids=["absurd", "just sane", "small", "no limit", "absurd and twice", "just sane and twice", "above Pillow's bound"],
)
def test_bomb_is_above_the_limit_and_absurdly_packed(monkeypatch, limit, size, refused):
    content = black_png(SIDE)
    assert len(content) < LARGEST_BOMB - 1
    content += bytes(size - len(content))  # what follows a PNG's end is passed over
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    if refused:
        with pytest.raises(Image.DecompressionBombError), open_image(content):
            pass
    else:
        with open_image(content) as picture:
            assert np.asarray(picture).shape == (SIDE, SIDE)


@pytest.mark.parametrize(
    "mode", ["RGB", "L", "P", "1", "CMYK", "YCbCr", "HSV", "RGBA", "LA", "PA", "I", "I;16", "RGBX"]
)
def test_every_mode_becomes_rgb_of_the_same_look(mode):
    grey = np.tile(np.uint8([0, 60, 120, 255]), (6, 1))
    if mode.startswith("I"):
        picture = Image.fromarray((grey * 257.0).astype(np.int32 if mode == "I" else np.uint16))
    elif mode in ("P", "PA"):
        picture = Image.fromarray(grey).convert("P").convert(mode)
    else:
        picture = Image.fromarray(np.stack([grey] * 3, axis=-1)).convert(mode, dither=Image.Dither.NONE)
    assert picture.mode == mode
    result = to_rgb(picture)
    assert (result.mode, result.size) == ("RGB", (4, 6))
    expected = np.where(grey < 128, 0, 255) if mode == "1" else grey
    assert distance(np.asarray(result), np.stack([expected] * 3, axis=-1)) <= 1


@pytest.mark.parametrize("values", [[-5, 0, 70_000, 65_535]])
def test_32_bit_grey_outside_16_bits_is_clipped(values):
    result = np.asarray(to_rgb(Image.fromarray(np.array([values], np.int32))))
    assert result[0, :, 0].tolist() == [0, 0, 255, 255]


def test_fully_transparent_picture_is_white_whatever_it_hides():
    picture = Image.fromarray(np.dstack([noise(), np.zeros((64, 80), np.uint8)]))
    assert np.array_equal(np.asarray(to_rgb(picture)), np.full((64, 80, 3), 255))


def test_opaque_picture_keeps_every_pixel():
    picture = Image.fromarray(np.dstack([noise(), np.full((64, 80), 255, np.uint8)]))
    assert np.array_equal(np.asarray(to_rgb(picture)), noise())


# Decoding at a fraction of the size


def scene(height, width):
    """Return a picture with detail of every scale, such as images have: noise whose amplitude falls with scale."""
    rng = np.random.default_rng([height, width])
    image = np.full((height, width, 3), 127.5)
    for cells in (2, 4, 8, 16, 32, 64, 128):
        patches = Image.fromarray(rng.integers(0, 256, (cells, cells, 3)).astype(np.uint8))
        image += (np.asarray(patches.resize((width, height), Image.Resampling.BICUBIC)) - 127.5) / cells**0.75
    return image.clip(0, 255).astype(np.uint8)


def jpeg(image, **options):
    return encoded(Image.fromarray(image), "JPEG", **{"quality": 90, **options})


def scale_for(shape, size):
    """Return the largest of 8, 4, 2, 1 by which both sides may be divided and still reach 2 * size."""
    return max(scale for scale in (1, 2, 4, 8) if scale == 1 or min(shape) >= scale * 2 * size)


@settings(max_examples=50, deadline=None)
@given(shape=st.tuples(st.integers(1, 400), st.integers(1, 400)), size=st.integers(1, 60))
def test_a_jpeg_is_reduced_as_far_as_twice_the_size_allows(shape, size):
    image = decode(jpeg(np.zeros((*shape, 3), np.uint8)), size)
    scale = scale_for(shape, size)
    assert image.shape == (-(-shape[0] // scale), -(-shape[1] // scale), 3)
    assert scale == 1 or min(image.shape[:2]) >= 2 * size


@pytest.mark.parametrize(
    ("shape", "scale"),
    [
        *(((side, side), scale) for side, scale in ((63, 1), (64, 2), (127, 2), (128, 4), (255, 4), (256, 8))),
        *(((1000, side), scale) for side, scale in ((63, 1), (64, 2), (65, 2), (257, 8))),
        *(((side, 1001), scale) for side, scale in ((63, 1), (67, 2), (131, 4), (263, 8))),
        ((513, 517), 8),
        ((3000, 32), 1),
        ((1, 3000), 1),
    ],
)
def test_neither_side_falls_below_twice_the_size(tmp_path, shape, scale):
    file = tmp_path / "a.jpg"
    file.write_bytes(jpeg(np.full((*shape, 3), 90, np.uint8)))
    image = decode(file, 16)
    assert image.shape == (-(-shape[0] // scale), -(-shape[1] // scale), 3)
    assert scale == 1 or min(image.shape[:2]) >= 32


@pytest.mark.parametrize("shape", [(63, 900), (900, 63), (63, 63), (32, 32), (5, 4)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
def test_a_jpeg_that_is_not_large_enough_is_decoded_whole(shape, options):
    content = jpeg(noise(*shape), **options)
    assert np.array_equal(decode(content, 16), decode(content))


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("BMP", {}), ("GIF", {}), ("WEBP", {}), ("TIFF", {})])
def test_other_formats_are_decoded_whole_for_any_size(kind, options):
    content = encoded(Image.fromarray(smooth(200, 300)), kind, **options)
    image = decode(content, 8)
    assert image.shape == (200, 300, 3)
    assert np.array_equal(image, decode(content))


def test_a_tiff_that_holds_a_jpeg_is_decoded_whole():
    content = encoded(Image.fromarray(smooth(200, 300)), "TIFF", compression="jpeg")
    assert np.array_equal(decode(content, 8), decode(content))


@pytest.mark.parametrize("rule", ["stretch", "crop"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("shape", [(257, 301), (300, 260), (600, 900), (1201, 1030)])
def test_a_reduced_image_is_close_to_the_whole_one_once_resized(shape, rule, interpolation):
    content = jpeg(scene(*shape))
    resize, size = Resize(rule, interpolation), 64
    whole, reduced = decode(content), decode(content, size)
    assert scale_for(shape, size) > 1
    assert max(reduced.shape) < max(whole.shape)
    difference = np.abs(resize(whole, size).astype(int) - resize(reduced, size))
    assert difference.mean() < 0.5
    assert difference.max() <= 6
    assert np.abs(resize(whole, size).astype(int) - resize(whole, size)[:, ::-1]).mean() > 30  # it is no flat picture


def test_reduced_animals_are_close_to_whole_ones_once_resized(animals10_root):
    files = sorted(animals10_root.glob("*/*.jpeg"))[::20]
    reduced = [file for file in files if decode(file, 64).shape != decode(file).shape]
    assert 0.1 < len(reduced) / len(files) < 0.4
    pairs = [[Resize()(decode(file, size), 64).astype(int) for size in (None, 64)] for file in reduced]
    differences = [np.abs(whole - small).mean() for whole, small in pairs]
    assert np.mean(differences) < 0.6
    assert max(differences) < 2


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_reduced_image_is_turned_as_its_exif_says(orientation):
    stored = scene(512, 768)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = jpeg(stored, exif=exif)
    image = decode(content, 32)
    upright = UPRIGHT[orientation](stored)
    assert image.shape == (upright.shape[0] // 8, upright.shape[1] // 8, 3)
    resized = Resize()(image, 32).astype(int)
    assert np.abs(resized - Resize()(decode(content), 32)).mean() < 1.5
    assert np.abs(resized - Resize()(np.ascontiguousarray(upright), 32)).mean() < 3


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_a_large_jpeg_cut_short_is_reduced_as_far_as_it_goes(tmp_path, options):
    whole = jpeg(scene(600, 800), **options)
    file = tmp_path / "cut.jpg"
    file.write_bytes(whole[: len(whole) * 6 // 10])
    cut, complete = decode(file, 32), decode(whole, 32)
    assert cut.shape == complete.shape == (75, 100, 3)
    assert not np.array_equal(cut, complete)
    if not options:  # a progressive one has lost detail everywhere
        assert np.array_equal(cut[:30], complete[:30])
    assert np.abs(Resize()(cut, 32).astype(int) - Resize()(decode(file), 32)).mean() < 3


@pytest.mark.parametrize("mode", ["L", "CMYK", "YCbCr"])
def test_a_large_jpeg_of_any_mode_is_reduced_and_becomes_rgb(mode):
    content = encoded(Image.fromarray(scene(256, 512)).convert(mode), "JPEG", quality=90)
    image = decode(content, 32)
    assert image.shape == (64, 128, 3)
    assert np.abs(Resize()(image, 32).astype(int) - Resize()(decode(content), 32)).mean() < 1.5


def test_the_first_picture_of_several_in_a_jpeg_is_reduced():
    first, second = Image.fromarray(scene(256, 256)), Image.new("RGB", (256, 256), (0, 0, 200))
    content = encoded(first, "MPO", save_all=True, append_images=[second], quality=90)
    image = decode(content, 32)
    assert image.shape == (64, 64, 3)
    assert np.abs(Resize()(image, 32).astype(int) - Resize()(decode(content), 32)).mean() < 1.5


def test_a_reduced_image_is_a_writable_array():
    image = decode(jpeg(scene(256, 256)), 32)
    assert image.dtype == np.uint8
    assert image.flags.writeable and image.flags.c_contiguous


def test_what_cannot_be_decoded_is_refused_for_any_size():
    with pytest.raises(UsageError, match=r"<bytes>.*Fix or remove"):
        decode(b"\xff\xd8\xff\xe0", 32)
