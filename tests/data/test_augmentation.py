"""Augmentation: its contract for every policy, what the reference does, and pipelines from files."""

from itertools import product

import albumentations as A
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from animals_pl.data.augmentation import Augmentation
from animals_pl.data.policies import POLICIES
from animals_pl.data.resize import Resize
from animals_pl.errors import UsageError

EVERY = ["none", *POLICIES]
SHAPES = [(60, 90), (64, 64), (5, 7), (1, 1), (4, 400), (400, 4)]


def seeded(*numbers):
    return np.random.SeedSequence(numbers)


def source(height=60, width=90):
    return np.random.default_rng([height, width]).integers(0, 256, (height, width, 3)).astype(np.uint8)


def gradient(height=60, width=90):
    """Return a picture without any symmetry: red rises to the right, green downwards, blue along a diagonal."""
    y, x = np.mgrid[:height, :width] / (max(height, width) - 1)
    return (255 * np.stack([x, y, (x + y) / 2], axis=-1)).astype(np.uint8)


def refusal(policy, *images):
    with pytest.raises(UsageError) as caught:
        augmentation = Augmentation(str(policy), Resize())
        for image in images:
            augmentation(image, 32, seeded(0))
    return str(caught.value)


def test_the_documented_policies_are_there():
    assert list(POLICIES) == ["reference", "reference_no_flip", "light"]


@pytest.mark.parametrize("policy", EVERY)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_result_is_a_square_uint8_image(policy, shape):
    augmentation, image = Augmentation(policy, Resize()), source(*shape)
    for size, seed in product((8, 33, 96), range(8)):
        result = augmentation(image, size, seeded(seed))
        assert isinstance(result, np.ndarray)
        assert (result.shape, result.dtype) == ((size, size, 3), np.uint8)


@pytest.mark.parametrize("policy", EVERY)
def test_image_itself_is_left_alone(policy):
    image = source(64, 64)
    before = image.copy()
    for seed in range(20):
        Augmentation(policy, Resize())(image, 64, seeded(seed))
    assert np.array_equal(image, before)


@pytest.mark.parametrize("policy", EVERY)
@settings(max_examples=15, deadline=None)
@given(calls=st.permutations(list(product((24, 40), (0, 1), (0, 1, 2)))))
def test_result_depends_on_nothing_but_image_size_and_seed(policy, calls):
    images = [source(60, 90), source(40, 40)]
    augmentation = Augmentation(policy, Resize())
    for size, index, seed in calls:
        alone = Augmentation(policy, Resize())(images[index], size, seeded(7, seed))
        assert np.array_equal(augmentation(images[index], size, seeded(7, seed)), alone)
    in_order = [augmentation(images[i], size, seeded(7, seed)) for size, i, seed in sorted(calls)]
    shuffled = {call: augmentation(images[call[1]], call[0], seeded(7, call[2])) for call in calls}
    assert all(np.array_equal(one, shuffled[call]) for one, call in zip(in_order, sorted(calls), strict=True))


@pytest.mark.parametrize("policy", POLICIES)
def test_global_random_state_plays_no_part(policy):
    augmentation, image = Augmentation(policy, Resize()), source()
    results = []
    for state in (0, 1):
        np.random.seed(state)
        before = np.random.get_state()[1].copy()
        results.append(augmentation(image, 48, seeded(3)))
        assert np.array_equal(np.random.get_state()[1], before)
    assert np.array_equal(*results)


@pytest.mark.parametrize("policy", POLICIES)
def test_other_seeds_give_other_pixels(policy):
    augmentation, image = Augmentation(policy, Resize()), source()
    assert len({augmentation(image, 48, seeded(0, seed)).tobytes() for seed in range(50)}) == 50


@pytest.mark.parametrize("resize", [Resize(), Resize("crop", "bicubic", 0.875), Resize("stretch", "nearest")], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_none_is_the_resizing_alone(resize, shape):
    image = source(*shape)
    for seed in range(3):
        assert np.array_equal(Augmentation("none", resize)(image, 48, seeded(seed)), resize(image, 48))


def test_reference_brings_the_image_to_size_by_the_resize_rule():
    image = source(50, 120)
    results = {Augmentation("reference", rule)(image, 40, seeded(1)).tobytes() for rule in (Resize(), Resize("crop"))}
    assert len(results) == 2


@pytest.mark.parametrize("policy", ["reference", "reference_no_flip"])
@pytest.mark.parametrize("level", [255, 0])
def test_reference_fills_gaps_from_the_image(policy, level):
    image = np.full((60, 90, 3), level, np.uint8)
    for seed in range(40):
        assert np.all(Augmentation(policy, Resize())(image, 48, seeded(seed)) == level)


def affine_parts(policy, height, width, size=120, draws=200):
    """Augment a dark disc on white and measure its scale and shift, along the width and then the height.

    Returns scale (2, draws) and shift (2, draws), both as parts of the picture's side.
    """
    y, x = np.mgrid[:height, :width]
    inside = ((y + 0.5) / height - 0.5) ** 2 + ((x + 0.5) / width - 0.5) ** 2 < 0.1**2
    image = np.stack([np.where(inside, 0, 255).astype(np.uint8)] * 3, axis=-1)
    augmentation = Augmentation(policy, Resize())
    place = (np.arange(size) + 0.5) / size - 0.5
    scale, shift = np.empty((2, 2, draws))
    for seed in range(draws):
        dark = 1 - augmentation(image, size, seeded(seed))[..., 0] / 255
        for axis in (0, 1):
            mass = dark.sum(axis=axis) / dark.sum()
            shift[axis, seed] = mass @ place
            scale[axis, seed] = np.sqrt(mass @ (place - mass @ place) ** 2) / 0.05  # a disc spreads by half its radius
    return scale, shift


@pytest.mark.parametrize("policy", ["reference", "reference_no_flip"])
@pytest.mark.parametrize("shape", [(200, 300), (240, 160)])
def test_reference_zooms_in_only_and_translates_as_documented(policy, shape):
    (wide, high), (right, down) = affine_parts(policy, *shape)
    assert np.abs(wide - high).max() < 0.03
    for drawn, least, most in ((wide, 1, 1 / 0.6), (high, 1, 1 / 0.6), (right, -0.2, 0.2), (down, -0.3, 0.3)):
        span = most - least
        assert least - 0.015 < drawn.min() < least + span / 10
        assert most - span / 10 < drawn.max() < most + 0.015
        # Uniform: the mean within four standard errors of the middle.
        assert abs(drawn.mean() - (least + most) / 2) < 4 * span / np.sqrt(12 * drawn.size)


@pytest.mark.parametrize("policy", ["reference", "reference_no_flip"])
def test_reference_neither_rotates_nor_shears_nor_recolours(policy):
    image = gradient(120, 120)
    augmentation = Augmentation(policy, Resize())
    for seed in range(40):
        red, green, _ = np.moveaxis(augmentation(image, 96, seeded(seed)).astype(int), -1, 0)
        # Red depends on the column alone and green on the row alone, as before.
        assert np.ptp(red, axis=0).max() <= 2
        assert np.ptp(green, axis=1).max() <= 2


def is_mirrored(image, result):
    """Tell by correlation whether a result looks more like the mirrored picture than like the picture."""
    straight = Resize()(image, result.shape[0])[..., 0].ravel()
    mirrored = Resize()(image[:, ::-1], result.shape[0])[..., 0].ravel()
    red = result[..., 0].ravel()
    return np.corrcoef(red, mirrored)[0, 1] > np.corrcoef(red, straight)[0, 1]


@pytest.mark.parametrize(
    ("policy", "share"), [("reference", 0.5), ("reference_no_flip", 0), ("light", 0.5), ("none", 0)]
)
def test_half_of_the_images_are_mirrored_where_the_policy_flips(policy, share):
    augmentation, image, draws = Augmentation(policy, Resize()), gradient(), 200
    mirrored = sum(is_mirrored(image, augmentation(image, 32, seeded(seed))) for seed in range(draws))
    # Four standard deviations of a binomial count; none at all where the policy never flips.
    assert abs(mirrored - share * draws) <= 4 * np.sqrt(draws * share * (1 - share))


def test_crops_of_light_show_at_least_half():
    (cut,) = (step for step in POLICIES["light"](64) if isinstance(step, A.RandomResizedCrop))
    image, areas = gradient(256, 256), []
    for seed in range(100):
        cut.set_random_seed(seed)
        result = cut(image=image)["image"]
        # 64 pixels span 63 steps of the gradient: red tells the width that is shown, green the height.
        width, height = (np.ptp(result[..., channel]) / 255 * 64 / 63 for channel in (0, 1))
        areas.append(width * height)
    assert 0.48 < min(areas) < 0.55
    assert max(areas) > 0.9


@pytest.fixture(params=["yaml", "yml", "json"])
def saved(request, tmp_path):
    """Return a function that saves a transform with albumentations and returns the file."""

    def save(transform):
        file = tmp_path / f"pipeline.{request.param}"
        A.save(transform, file, data_format="json" if request.param == "json" else "yaml")
        return str(file)

    return save


@pytest.mark.parametrize("policy", POLICIES)
def test_saved_copy_of_a_policy_gives_the_policys_pixels(saved, policy):
    file = saved(A.Compose(POLICIES[policy](40)))
    image = source()
    named, copy = Augmentation(policy, Resize()), Augmentation(file, Resize())
    for seed in range(10):
        assert np.array_equal(copy(image, 40, seeded(seed)), named(image, 40, seeded(seed)))


def test_file_gives_the_pixels_of_its_pipeline_and_then_resizes(saved):
    steps = A.Compose([A.RandomCrop(20, 30), A.RandomRotate90(), A.RandomBrightnessContrast(p=1.0)])
    augmentation, image = Augmentation(saved(steps), Resize()), source()
    for seed in range(5):
        steps.set_random_seed(int(seeded(seed).generate_state(1)[0]))
        assert np.array_equal(augmentation(image, 50, seeded(seed)), Resize()(steps(image=image)["image"], 50))


def test_file_may_hold_a_single_transform(saved):
    augmentation, image = Augmentation(saved(A.HorizontalFlip(p=1.0)), Resize()), source(32, 32)
    assert np.array_equal(augmentation(image, 32, seeded(0)), image[:, ::-1])


def test_changed_file_is_read_anew(tmp_path):
    file, image = tmp_path / "pipeline.yaml", source(32, 32)
    A.save(A.HorizontalFlip(p=1.0), file, data_format="yaml")
    Augmentation(str(file), Resize())(image, 32, seeded(0))
    A.save(A.VerticalFlip(p=1.0), file, data_format="yaml")
    assert np.array_equal(Augmentation(str(file), Resize())(image, 32, seeded(0)), image[::-1])


@pytest.mark.parametrize(
    "steps",
    [[A.Normalize()], [A.ToTensorV2()], [A.ToFloat()], [A.ToGray(num_output_channels=1, p=1.0)]],
    ids=["Normalize", "ToTensorV2", "ToFloat", "one channel"],
)
def test_pipeline_that_leaves_no_rgb_bytes_is_refused(saved, steps):
    file = saved(A.Compose(steps))
    message = refusal(file, source())
    assert f"data.augment={file!r}" in message
    assert "Remove steps such as Normalize" in message


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("refrence", "reference"), ("reference-no-flip", "reference_no_flip"), ("lite", "light")],
)
def test_misspelt_policy_is_refused_with_the_nearest_name(name, nearest):
    message = refusal(name)
    assert f"data.augment={name!r}" in message
    assert f"Did you mean {nearest!r}?" in message


@pytest.mark.parametrize("name", ["xyzzy", "", "pipeline.toml"])
def test_unknown_policy_is_refused_with_every_name(name):
    message = refusal(name)
    assert f"data.augment={name!r}" in message
    assert "Did you mean" not in message
    assert ", ".join(EVERY) in message
    assert ".yaml or .json" in message


@pytest.mark.parametrize("name", ["absent.yaml", "absent.json", "folder.yml"])
def test_missing_file_is_named_with_a_remedy(tmp_path, name):
    (tmp_path / "folder.yml").mkdir()
    message = refusal(tmp_path / name)
    assert f"data.augment={str(tmp_path / name)!r} is not a file" in message
    assert "albumentations.save" in message


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "{"),
        ("a.json", ""),
        ("a.json", "[]"),
        ("a.yaml", ""),
        ("a.yaml", "transform: [unclosed"),
        ("a.yaml", "just text"),
        ("a.yml", "transform: {}"),
        ("a.yaml", yaml.safe_dump({"transform": {"__class_fullname__": "NoSuchTransform", "p": 1.0}})),
        ("a.yaml", yaml.safe_dump({"transform": {"__class_fullname__": "Compose", "transforms": 5}})),
        ("a.yaml", "!!python/object/apply:os.getcwd []"),
    ],
)
def test_malformed_file_is_named_with_a_remedy(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    message = refusal(tmp_path / name)
    assert f"data.augment={str(tmp_path / name)!r} cannot be read" in message
    assert "albumentations.save" in message
