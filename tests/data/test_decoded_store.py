"""Decoded photographs in a file: the same batches, within a bound, found again, and never in the way."""

from __future__ import annotations

import os
import pickle
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from animals_pl.cli import main
from animals_pl.data import datamodule as datamodule_file
from animals_pl.data import decoded_store as store_file
from animals_pl.data.catalog import Catalog
from animals_pl.data.datamodule import AnimalsDataModule, AnimalsDataset
from animals_pl.data.decode import Resize, decode
from animals_pl.data.decoded_store import DecodedStore, find_decoded, keep_decoded
from animals_pl.errors import UsageError

SIZE = 16
ROOM = 0.01
"""Gigabytes in which every photograph of the tree fits ten times."""


@pytest.fixture(scope="module")
def drawn_tree(tmp_path_factory) -> Path:
    """Thirty photographs of three classes: small and large JPEGs of odd shapes, some turned by EXIF, and PNGs."""
    root = tmp_path_factory.mktemp("drawn") / "photos"
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("cane", "gatto", "ragno"):
        (root / name).mkdir(parents=True)
        for index in range(10):
            height, width = rng.integers(40, 90, 2) if index % 2 else rng.integers(150, 330, 2)
            coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8))
            picture = coarse.resize((int(width), int(height)), Image.Resampling.BICUBIC)
            if index == 8:
                picture.save(root / name / f"{index}.png")
            else:
                picture.save(root / name / f"{index}.jpg", quality=90, **({"exif": exif} if index == 4 else {}))
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Keep what is computed below the test's own folder."""
    monkeypatch.setenv("ANIMALS_PL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tree(drawn_tree, tmp_path) -> Path:
    """A copy of the tree that a test may harm."""
    return shutil.copytree(drawn_tree, tmp_path / "photos")


def make(root: Path, keep: float = 0.0, stage: str = "fit", **options) -> AnimalsDataModule:
    settings = {"size": SIZE, "batch_size": 4, "num_workers": 0, "augment": "light", **options}
    data = AnimalsDataModule(root=str(root), keep_decoded=keep, **settings)
    if stage:
        data.setup(stage)
    return data


def batches(data: AnimalsDataModule, epochs: int = 1) -> list[bytes]:
    """Return the bytes of all that training and validation are given."""
    given = []
    for epoch in range(epochs):
        data._position = lambda epoch=epoch: (epoch, 0)
        for loader in (data.train_dataloader(), data.val_dataloader()):
            given += [part.numpy().tobytes() for batch in loader for part in batch]
    return given


def kept_files(cache: Path) -> list[Path]:
    folder = cache / "photographs"
    return sorted(folder.iterdir()) if folder.exists() else []


def catalog_of(root: Path) -> Catalog:
    return make(root).decodable


@pytest.fixture
def no_decoding(monkeypatch) -> None:
    """Let nothing be decoded any more, neither for the net nor for the store, in this and in forked processes."""

    def refuse(source, size=None):
        raise AssertionError(f"{source} was decoded")

    monkeypatch.setattr(datamodule_file, "decode", refuse)
    monkeypatch.setattr(store_file, "decode", refuse)


# ---------------------------------------------------------------- the same batches


@pytest.mark.parametrize("augment", ["none", "light", "reference"])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_with_and_without(drawn_tree, workers, augment):
    plain = batches(make(drawn_tree, augment=augment), epochs=2)
    data = make(drawn_tree, ROOM, augment=augment, num_workers=workers)
    assert data.store.places.keys() == set(data.decodable.contents)
    assert batches(data, epochs=2) == plain


@pytest.mark.parametrize("workers", [0, 2])
def test_stages_below_and_above_the_final_size_are_the_same_with_and_without(drawn_tree, workers):
    both = make(drawn_tree), make(drawn_tree, ROOM, num_workers=workers)
    for data in both:
        data.size_schedule = [8, SIZE, 24, 64].__getitem__
    plain, kept = (batches(data, epochs=4) for data in both)
    assert kept == plain
    sides = {len(images) // 3 // 4 for images in plain[::2] if len(images) % (3 * 4) == 0}
    assert {side * side for side in (8, SIZE, 24, 64)} <= sides


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("side", [8, SIZE])
def test_nothing_is_decoded_again(drawn_tree, workers, side, request):
    data = make(drawn_tree, ROOM, num_workers=workers)
    request.getfixturevalue("no_decoding")
    data.size_schedule = lambda epoch: side
    assert len(batches(data, epochs=2)) > 0
    assert len(data.photographs("train")[0][0]) == 3


def test_a_stage_above_the_final_size_decodes_for_itself(drawn_tree, monkeypatch):
    data = make(drawn_tree, ROOM)
    data.size_schedule = lambda epoch: 24
    asked = []
    monkeypatch.setattr(datamodule_file, "decode", lambda path, size: asked.append(size) or decode(path, size))
    batches(data)
    assert asked == [24] * len(data.folds["train"].paths)


def test_photographs_are_as_decode_gives_them_and_may_be_changed(drawn_tree):
    data = make(drawn_tree, ROOM)
    for content, path in zip(data.decodable.contents, data.decodable.paths, strict=True):
        expected = decode(drawn_tree / path, SIZE)
        image = data.store.get(content)
        assert image.dtype == np.uint8 and np.array_equal(image, expected)
        image[:] = 0
        assert np.array_equal(data.store.get(content), expected)
    assert any(
        min(data.store.get(c).shape[:2]) < min(decode(drawn_tree / p).shape[:2])
        for c, p in zip(data.decodable.contents, data.decodable.paths, strict=True)
    )  # some are reduced


def test_what_is_not_in_the_store_is_decoded(drawn_tree):
    data = make(drawn_tree, ROOM)
    assert data.store.get("") is None and data.store.get("0" * 64) is None
    catalog = data.folds["val"]
    unknown = Catalog(catalog.root, catalog.class_names, catalog.paths, catalog.labels)
    one, other = (AnimalsDataset(c, Resize(), SIZE, store=data.store) for c in (catalog, unknown))
    assert all(torch.equal(one[index][0], other[index][0]) for index in range(len(one)))


def test_test_photographs_have_no_store(drawn_tree):
    data = make(drawn_tree, ROOM, test_fraction=0.2)
    assert data.photographs("train").store is data.photographs("val").store is data.store is not None
    assert data.photographs("test").store is None


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_only_training_makes_a_store(drawn_tree, cache, stage):
    data = make(drawn_tree, ROOM, stage, test_fraction=0.2)
    assert data.store is None
    assert kept_files(cache) == []


def test_nothing_is_kept_unless_it_is_asked_for(drawn_tree, cache):
    assert make(drawn_tree).store is None
    assert kept_files(cache) == []


# ---------------------------------------------------------------- other processes


def test_another_process_is_sent_the_name_and_not_the_pixels(drawn_tree):
    dataset = make(drawn_tree, ROOM).datasets["val"]
    sent = pickle.dumps(dataset.store)
    assert len(sent) < 4000 < dataset.store.file.stat().st_size
    received = pickle.loads(pickle.dumps(dataset))
    assert isinstance(received.store, DecodedStore)
    assert all(torch.equal(received[index][0], dataset[index][0]) for index in range(len(dataset)))


def test_a_removed_file_is_done_without(drawn_tree):
    data = make(drawn_tree, ROOM, num_workers=2)
    plain = batches(make(drawn_tree))
    data.store.file.unlink()
    assert batches(data) == plain
    received = pickle.loads(pickle.dumps(data.datasets["val"]))
    assert received.store is None
    assert all(torch.equal(received[index][0], data.datasets["val"][index][0]) for index in range(len(received)))


def with_rank(data: AnimalsDataModule, rank: int, barrier) -> AnimalsDataModule:
    data.trainer = SimpleNamespace(
        lightning_module=None,
        is_global_zero=rank == 0,
        fast_dev_run=1,
        global_rank=rank,
        world_size=2,
        strategy=SimpleNamespace(root_device=torch.device("cpu"), barrier=barrier),
    )
    return data


def test_one_process_writes_for_all(drawn_tree, cache, capsys):
    met = []
    first = with_rank(make(drawn_tree, ROOM, ""), 0, lambda name: met.append(len(kept_files(cache))))
    second = with_rank(make(drawn_tree, ROOM, ""), 1, lambda name: first.setup("fit"))
    second.setup("fit")
    assert met == [1]  # the first had written when it came to the others
    assert first.store.file == second.store.file
    assert first.store.places == second.store.places
    assert capsys.readouterr().out.count("kept decoded") == 1


def test_a_process_does_without_what_the_first_could_not_write(drawn_tree, cache):
    data = with_rank(make(drawn_tree, ROOM, ""), 1, lambda name: None)
    data.setup("fit")
    assert data.store is None
    assert kept_files(cache) == []


# ---------------------------------------------------------------- the bound


def needed(data: AnimalsDataModule) -> list[int]:
    """Return the bytes of each photograph, in the catalog's order."""
    return [decode(data.decodable.root / path, SIZE).nbytes for path in data.decodable.paths]


@pytest.mark.parametrize("part", [0.0, 0.001, 0.03, 0.1, 0.3, 0.5, 0.8, 0.97, 0.999, 1.1])
def test_the_file_is_as_large_as_allowed_and_no_larger(drawn_tree, cache, part):
    plain = make(drawn_tree)
    bound = int(part * sum(needed(plain))) + 16
    store = keep_decoded(plain.decodable, SIZE, bound / 1e9)
    (file,) = kept_files(cache)
    room = bound - file.stat().st_size
    assert room >= 0
    sizes = dict(zip(plain.decodable.contents, needed(plain), strict=True))
    kept = [sizes[content] for content in store.places]
    too_large = all(size + 16 > room for content, size in sizes.items() if content not in store.places)
    assert too_large or room < np.mean(kept) + 16
    assert (len(kept) == 30) == (part == 1.1)
    assert (len(kept) == 0) == (part <= 0.001)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_does_not_fit_is_decoded(drawn_tree, cache, workers):
    plain = make(drawn_tree)
    data = make(drawn_tree, sum(needed(plain)) / 2 / 1e9, num_workers=workers)
    assert 5 < len(data.store.places) < 25
    assert kept_files(cache)[0].stat().st_size <= sum(needed(plain)) / 2
    assert batches(data) == batches(plain)


def test_one_that_is_too_large_does_not_keep_out_the_others(tree):
    Image.new("RGB", (2000, 1500)).save(tree / "cane" / "0 first.png")
    data = make(tree, 0.008)
    first = data.decodable.contents[data.decodable.paths.index("cane/0 first.png")]
    assert data.store.places.keys() == set(data.decodable.contents) - {first}


def test_decoding_ends_when_the_file_is_full(make_tree, monkeypatch):
    root = make_tree("alike", {"cane": 40, "gatto": 40})
    catalog = catalog_of(root)
    decoded = []
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(store_file, "decode", lambda path, size: decoded.append(path) or decode(path, size))
    store = keep_decoded(catalog, SIZE, 0.0001)
    assert 3 < len(store.places) < 15
    assert len(decoded) < len(store.places) + 15


def test_few_photographs_wait_in_memory(drawn_tree, monkeypatch):
    decoded = []
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(store_file, "decode", lambda path, size: decoded.append(path) or decode(path, size))
    files = sorted(drawn_tree.glob("*/*.jpg"))
    images = store_file._decoded(files, SIZE)
    for taken, file in enumerate(files, start=1):
        assert np.array_equal(next(images), decode(file, SIZE))
        assert len(decoded) <= taken + 2 * 2
    images.close()
    assert len(decoded) == len(files)


def test_copies_are_kept_once(tree):
    alone = keep_decoded(catalog_of(tree), SIZE, ROOM)
    size = alone.file.stat().st_size
    for index in range(3):
        shutil.copy(tree / "cane" / "0.jpg", tree / "cane" / f"copy {index}.jpg")
    data = make(tree, ROOM)
    assert len(data.decodable.paths) == 33
    assert data.store.file.stat().st_size == size
    assert data.store.places.keys() == alone.places.keys()


def test_without_bound_everything_is_kept(drawn_tree):
    assert len(make(drawn_tree, float("inf")).store.places) == 30


# ---------------------------------------------------------------- found again


def identity(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_ino, status.st_mtime_ns


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"seed": 7},
        {"val_fraction": 0.5, "test_fraction": 0.2},
        {"augment": "none", "batch_size": 8, "num_workers": 2},
        {"resize": "crop", "interpolation": "lanczos"},
        {"group_duplicates": False, "sampling": "weighted"},
        {"exclude": "exclude.csv"},
    ],
    ids=str,
)
def test_later_runs_and_other_splits_find_the_file(drawn_tree, tmp_path, cache, options, request):
    make(drawn_tree, ROOM)
    (file,) = kept_files(cache)
    before = identity(file)
    if "exclude" in options:
        (tmp_path / "exclude.csv").write_text("path\ncane/1.jpg\nragno/8.png\n")
        options = {"exclude": str(tmp_path / "exclude.csv")}
    plain = batches(make(drawn_tree, **options))
    request.getfixturevalue("no_decoding")
    data = make(drawn_tree, ROOM, **options)
    assert batches(data) == plain
    assert kept_files(cache) == [file]
    assert identity(file) == before


def change(tree: Path) -> dict:
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (70, 50, 3)).astype(np.uint8)).save(
        tree / "cane" / "1.jpg"
    )
    return {}


def add(tree: Path) -> dict:
    Image.new("RGB", (70, 50), (9, 99, 200)).save(tree / "cane" / "10.jpg")
    return {}


def remove(tree: Path) -> dict:
    (tree / "gatto" / "3.jpg").unlink()
    return {}


@pytest.mark.parametrize(
    "happens",
    [change, add, remove, lambda tree: {"size": 24}, lambda tree: {"keep": 0.02}],
    ids=["changed", "added", "removed", "another size", "another bound"],
)
def test_another_content_takes_the_predecessor_s_place(tree, cache, happens):
    make(tree, ROOM)
    before = kept_files(cache)
    options = happens(tree)
    keep = options.pop("keep", ROOM)
    data = make(tree, keep, **options)
    after = kept_files(cache)
    assert len(before) == len(after) == 1
    assert before != after
    assert data.store.places.keys() == set(data.decodable.contents)
    assert batches(data) == batches(make(tree, **options))


@pytest.mark.parametrize("what", ["Pillow", "format"])
def test_a_file_of_another_version_is_replaced(drawn_tree, cache, monkeypatch, what):
    make(drawn_tree, ROOM)
    before = kept_files(cache)
    if what == "Pillow":
        monkeypatch.setattr(PIL, "__version__", "0.1")
    else:
        monkeypatch.setattr(store_file, "_FORMAT", store_file._FORMAT + 1)
    make(drawn_tree, ROOM)
    assert len(kept_files(cache)) == 1
    assert kept_files(cache) != before


def test_every_dataset_has_a_file_of_its_own(tree, drawn_tree, cache):
    assert tree.name == drawn_tree.name
    make(tree, ROOM)
    make(drawn_tree, ROOM)
    assert len(kept_files(cache)) == 2
    assert all(file.name.startswith("photos-") for file in kept_files(cache))
    make(drawn_tree, ROOM, size=24)
    assert len(kept_files(cache)) == 2
    assert find_decoded(catalog_of(tree), SIZE, ROOM) is not None


@pytest.mark.parametrize("seconds", [0, 4000])
def test_what_a_killed_run_left_is_removed_and_what_another_is_writing_is_not(drawn_tree, cache, seconds):
    make(drawn_tree, ROOM)
    (file,) = kept_files(cache)
    partial = file.with_name(f"{file.name}.12345.partial")
    other = file.with_name(f"another-dataset-{'0' * 16}.12345.partial")
    for half_written in (partial, other):
        half_written.write_bytes(b"half")
        os.utime(half_written, (time.time() - seconds,) * 2)
    make(drawn_tree, ROOM)
    assert partial.exists() == (seconds == 0)
    assert other.exists() and file.exists()


# ---------------------------------------------------------------- damage


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def cut_by_one(content: bytes) -> bytes:
    return content[:-1]


def one_more(content: bytes) -> bytes:
    return content + b"\0"


def empty(content: bytes) -> bytes:
    return b""


def zeros(content: bytes) -> bytes:
    return bytes(len(content))


def few_zeros(content: bytes) -> bytes:
    return bytes(8)


def flip(place: float):
    def flipped(content: bytes) -> bytes:
        index = min(int(place * len(content)), len(content) - 1)
        return content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :]

    return flipped


@pytest.mark.parametrize(
    "damage",
    [cut, cut_by_one, one_more, empty, zeros, few_zeros, *map(flip, (0.0, 0.3, 0.7, 0.999, 1.0))],
)
def test_a_damaged_file_is_made_anew(drawn_tree, cache, damage):
    first = make(drawn_tree, ROOM)
    plain = batches(first)
    (file,) = kept_files(cache)
    whole = file.read_bytes()
    file.unlink()  # what is mapped stays as it was
    file.write_bytes(damage(whole))
    assert find_decoded(first.decodable, SIZE, ROOM) is None
    assert batches(make(drawn_tree, ROOM)) == plain
    assert kept_files(cache) == [file]
    assert file.read_bytes() == whole


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_is_noticed(make_tree, cache, data):
    root = cache.parent / "two"
    if not root.exists():
        make_tree("two", {"cane": 2, "gatto": 2})
    catalog = catalog_of(root)
    assert keep_decoded(catalog, SIZE, ROOM) is not None
    (file,) = kept_files(cache)
    whole = bytearray(file.read_bytes())
    file.unlink()
    if data.draw(st.booleans()):
        del whole[data.draw(st.integers(0, len(whole) - 1)) :]
    else:
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    file.write_bytes(whole)
    assert find_decoded(catalog, SIZE, ROOM) is None
    file.unlink()


@pytest.mark.parametrize("error", [KeyboardInterrupt, UsageError])
def test_an_interrupted_run_leaves_nothing(drawn_tree, cache, monkeypatch, error):
    catalog = catalog_of(drawn_tree)

    def interrupted(path, size):
        if path.name == "5.jpg":
            raise error
        return decode(path, size)

    with monkeypatch.context() as patch:
        patch.setattr(store_file, "decode", interrupted)
        with pytest.raises(error):
            keep_decoded(catalog, SIZE, ROOM)
    assert kept_files(cache) == []
    assert keep_decoded(catalog, SIZE, ROOM).places.keys() == set(catalog.contents)


def test_warnings_are_heard_as_before(drawn_tree):
    catalog = catalog_of(drawn_tree)
    filters = list(warnings.filters)
    keep_decoded(catalog, SIZE, ROOM)
    assert warnings.filters == filters


# ---------------------------------------------------------------- nowhere to write


def test_a_folder_that_cannot_be_written_is_a_warning(drawn_tree, tmp_path, monkeypatch, cache):
    plain = batches(make(drawn_tree))
    (cache / "photographs").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="decoded photographs cannot be kept") as caught:
        data = make(drawn_tree, ROOM)
    assert len(caught) == 1
    assert "ANIMALS_PL_CACHE" in str(caught[0].message) and str(cache / "photographs") in str(caught[0].message)
    assert data.store is None
    assert batches(data) == plain


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Let no file of this process grow above 100 kB: writing more ends as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_a_warning_and_leaves_nothing(drawn_tree, cache, full_disk):
    plain = make(drawn_tree)
    assert sum(needed(plain)) > 100_000
    with pytest.warns(UserWarning, match="decoded photographs cannot be kept") as caught:
        data = make(drawn_tree, ROOM)
    assert len(caught) == 1
    assert data.store is None
    assert kept_files(cache) == []
    assert batches(data) == batches(plain)


# ---------------------------------------------------------------- what a person sees


def test_one_line_says_what_is_kept_and_where(drawn_tree, cache, capsys):
    for _ in range(2):
        make(drawn_tree, ROOM)
        (line,) = capsys.readouterr().out.splitlines()
        (file,) = kept_files(cache)
        assert line.startswith("30 of 30 photographs are kept decoded in ")
        assert repr(str(file)) in line
        assert f"{file.stat().st_size / 1e9:.3g} GB" in line
    make(drawn_tree, 0.0002)
    kept = len(find_decoded(catalog_of(drawn_tree), SIZE, 0.0002).places)
    assert 0 < kept < 30
    assert capsys.readouterr().out.startswith(f"{kept} of 30 photographs")


def test_a_dataset_of_an_odd_name_is_kept_and_spoken_of(drawn_tree, tmp_path, cache, capsys):
    name = os.fsdecode(b'a "b" [c] - \xff\n' + b"x" * 60)
    root = shutil.copytree(drawn_tree, tmp_path / name)
    for size in (SIZE, 24):
        make(root, ROOM, size=size)
        assert "30 of 30" in capsys.readouterr().out
        assert len(kept_files(cache)) == 1


def test_a_run_keeps_photographs_and_its_checkpoint_serves_without(drawn_tree, tmp_path, cache, capsys):
    data = ["--data.root", drawn_tree, "--data.size", SIZE, "--data.num_workers", 2, "--data.batch_size", 8]
    trainer = ["--trainer.max_epochs", 1, "--trainer.accelerator", "cpu", "--trainer.default_root_dir", tmp_path]
    args = ["fit", "--model.net", "shallownet", *data, *trainer, "--data.keep_decoded", ROOM]
    assert main([str(arg) for arg in args]) == 0
    assert "30 of 30 photographs are kept decoded" in capsys.readouterr().out
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["datamodule_hyper_parameters"]["keep_decoded"] == ROOM
    shutil.rmtree(cache / "photographs")
    for more in ([], ["--data.keep_decoded", "0"], ["--data.keep_decoded", "3"]):
        assert main(["validate", "--ckpt_path", str(checkpoint), *more]) == 0
    assert kept_files(cache) == []
