"""scripts.bench.duplicates: its two tables and its contact sheet, on a tiny tree."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from animals_pl.data.catalog import ANIMALS10, scan_folder
from animals_pl.data.decode import decode
from animals_pl.data.inspection.alignment import same_picture
from animals_pl.data.inspection.duplicates import MAX_DISTANCE, near_pairs
from animals_pl.data.inspection.image_facts import inspect
from animals_pl.data.sources.practice.practice_set import draw_animal
from scripts.bench import duplicates as script


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten drawings, cropped copies (some in another class), one in false colours, two files without a hash."""
    root = tmp_path_factory.mktemp("drawn")
    names = list(ANIMALS10)
    for number, (name, neighbour) in enumerate(zip(names, names[1:] + names[:1], strict=True)):
        picture = draw_animal(name, np.random.default_rng(number))
        for folder in (name, neighbour):
            (root / folder).mkdir(exist_ok=True)
        picture.save(root / name / f"{name}.jpg")
        share = 0.012 * number
        box = (round(share * picture.width), 0, picture.width, picture.height)
        picture.crop(box).save(root / (neighbour if number % 3 == 0 else name) / f"copy of {name}.png")
    light, *hues = Image.open(root / "farfalla" / "farfalla.jpg").convert("YCbCr").split()
    false = Image.merge("YCbCr", [light, *(ImageOps.invert(hue) for hue in hues)])
    false.convert("RGB").save(root / "farfalla" / "other colours.png")
    Image.new("RGB", (30, 30), "white").save(root / "cane" / "a flat one.png")
    (root / "cane" / "empty.jpg").touch()
    return root


def rows(printed: str) -> dict[str, list[float]]:
    """The numbers of every row of the tables."""
    found = {}
    for line in printed.splitlines():
        if match := re.fullmatch(r" ?(\D.*?)((?: +[\d.,]+%?){7}) *", line):
            found[match[1].strip()] = [float(cell.strip("%").replace(",", "")) for cell in match[2].split()]
    return found


def pairs_of(root: Path, distance: int, same: Callable[[Path, Path], bool] | None) -> list[tuple[str, str, int]]:
    paths = scan_folder(root).paths
    found = {path: inspect(root / path) for path in paths}
    paths = [path for path in paths if found[path].perceptual_hash]
    hashes = [[getattr(found[path], key) for path in paths] for key in ("perceptual_hash", "centre_hash")]

    def one_picture(i: int, j: int) -> bool:
        return same is None or same(root / paths[i], root / paths[j])

    return [(paths[i], paths[j], bits) for i, j, bits in near_pairs(*hashes, one_picture, distance).tolist()]


def test_tables_count_what_is_found(drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    script.main(["--root", str(drawn), "--output", str(tmp_path / "new" / "folder"), "--sample", "8"])
    printed = capsys.readouterr().out
    found = rows(printed)
    assert found.pop("within … of 256 bits") == list(script.LIMITS)
    assert MAX_DISTANCE in script.LIMITS
    assert list(found) == [*script.COPIES, "near", "duplicates", "duplicates with conflicting labels"]
    for kind in script.COPIES:
        assert found[kind] == sorted(found[kind])
        assert {share * 8 % 100 for share in found[kind]} == {0}
    for kind in ("half size", "JPEG quality 30", "flipped", "cropped by 5 % on each side"):
        assert found[kind] == [100] * 7
    assert found["cropped by 8 % on one side"][0] < 100

    near = [pairs_of(drawn, limit, None) for limit in script.LIMITS]
    copies = [pairs_of(drawn, limit, same_picture) for limit in script.LIMITS]
    across = [[pair for pair in pairs if Path(pair[0]).parent != Path(pair[1]).parent] for pairs in copies]
    assert found["near"] == list(map(len, near))
    assert found["duplicates"] == list(map(len, copies))
    assert found["duplicates with conflicting labels"] == list(map(len, across))
    assert len(near[-1]) > len(copies[-1]) > len(across[-1]) > 0
    shown = [pair for pair in pairs_of(drawn, script.SHOWN[1], None) if pair[2] >= script.SHOWN[0]]
    assert len(shown) > 1
    assert f"{len(shown)} pairs of 56 to 84 bits: {tmp_path / 'new' / 'folder' / 'pairs.png'}" in printed


def test_same_seed_gives_the_same_numbers(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "LIMITS", range(20, 48, 4))  # some of the copies are within these
    printed = {}
    for run, seed in (("first", 1), ("again", 1), ("other", 2)):
        script.main(["--root", str(drawn), "--output", str(tmp_path), "--sample", "8", "--seed", str(seed)])
        printed[run] = capsys.readouterr().out
    assert printed["first"] == printed["again"] != printed["other"]


def test_sheet_shows_both_images_of_every_pair(drawn: Path) -> None:
    catalog = scan_folder(drawn)
    pairs = np.array([[5, 6, 60], [7, 9, 80], [6, 12, 70], [8, 10, 84]])
    panels = [axes for axes in script.contact_sheet(catalog, pairs, np.ones(len(pairs), bool)).axes if axes.images]
    assert len(panels) == len(pairs)
    for axes, (i, j, bits) in zip(panels, pairs.tolist(), strict=True):
        both = np.split(np.asarray(axes.images[0].get_array()), 2, axis=1)
        for index, shown in zip((i, j), both, strict=True):
            picture = ImageOps.pad(Image.fromarray(decode(drawn / catalog.paths[index])), script.FRAME, color="white")
            assert np.array_equal(shown, np.asarray(picture))
            assert Path(catalog.paths[index]).parent.name in axes.get_title()
        assert axes.get_title().startswith(f"{bits} bits, duplicates")


@pytest.mark.parametrize(
    ("bits", "same", "found"),
    [(MAX_DISTANCE, True, True), (MAX_DISTANCE + 1, True, False), (MAX_DISTANCE, False, False)],
)
def test_sheet_marks_duplicates(drawn: Path, bits: int, same: bool, found: bool) -> None:
    panel = script.contact_sheet(scan_folder(drawn), np.array([[5, 6, bits]]), np.array([same])).axes[0]
    assert panel.title.get_color() == ("green" if found else "darkorange")


def test_many_pairs_are_thinned_out_evenly(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr(script, "contact_sheet", lambda catalog, pairs, same: shown.append(pairs) or Figure())
    for most in (100, 3):
        monkeypatch.setattr(script, "MOST", most)
        monkeypatch.setattr(script, "SHOWN", (1, 96))
        script.main(["--root", str(drawn), "--output", str(tmp_path), "--sample", "1"])
    whole, thinned = (pairs[:, 2].tolist() for pairs in shown)
    assert len(whole) > 6 and whole == sorted(whole)
    assert 1 < len(thinned) <= 3
    assert thinned == whole[:: -(-len(whole) // 3)]


def test_folder_without_near_pairs(tiny_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    script.main(["--root", str(tiny_tree), "--output", str(tmp_path), "--sample", "2"])
    assert rows(capsys.readouterr().out)["near"] == [0] * 7
    assert (tmp_path / "pairs.png").exists()


@pytest.mark.parametrize("wrong", ["no root", "no image", "sample"])
def test_wrong_use_is_refused_in_one_line(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture, wrong: str
) -> None:
    root, sample = drawn, "1"
    if wrong == "no root":
        root = tmp_path / "nowhere"
    elif wrong == "no image":
        root = tmp_path / "flat"
        (root / "cane").mkdir(parents=True)
        Image.new("RGB", (30, 30)).save(root / "cane" / "flat.png")
    else:
        sample = "0"
    with pytest.raises(SystemExit) as caught:
        script.main(["--root", str(root), "--output", str(tmp_path / "out"), "--sample", sample])
    assert caught.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert (f"--sample={sample}" if wrong == "sample" else f"root={str(root)!r}") in message
    assert "pass" in message.lower()
    assert not (tmp_path / "out").exists()
