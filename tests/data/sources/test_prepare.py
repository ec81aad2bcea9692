"""The command prepare: every source, twice; what it says of the images; what it refuses."""

from __future__ import annotations

import _socket
import http.server
import io
import json
import os
import re
import shutil
import socket
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from animals_pl.cli import main
from animals_pl.data.catalog import ANIMALS10, find_root, scan_folder
from animals_pl.data.inspection.manifest import catalog_of
from animals_pl.data.sources import prepare as prepare_file
from animals_pl.data.sources.practice.practice_set import draw_practice_set
from animals_pl.errors import UsageError

ENGLISH = list(ANIMALS10.values())


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, with a cache of its own."""
    monkeypatch.setenv("ANIMALS_PL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def prepared(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs prepare and returns what it printed."""

    def run(*args: object) -> str:
        assert main(["prepare", *map(str, args)]) == 0
        out, error = capsys.readouterr()
        assert error == ""
        return out

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs prepare, proves that it was refused in one line, and returns the line."""

    def run(*args: object) -> str:
        assert main(["prepare", *map(str, args)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("animals_pl prepare: error: ")
        assert error.count("\n") == 1
        return error

    return run


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return content and time of change of every file below a folder."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def pictures(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path: facts for path, facts in files(folder).items() if path.endswith(".jpg")}


def zipped(folder: Path, file: Path, prefix: str = "raw-img/") -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for path, (content, _) in files(folder).items():
            archive.writestr(f"{prefix}{path}", content)
    return file


def table(out: str) -> dict[str, list[str]]:
    """Return the printed cells of every class."""
    lines = out.partition("class  ")[2].partition("\n\n")[0].splitlines()
    return {cells[0]: cells[1:] for cells in (re.split(r" {2,}", line.strip()) for line in lines[1:])}


def same_images(manifest: Path, tree: Path) -> bool:
    """Whether a manifest leads to the images of a tree, with their labels."""
    read, original = catalog_of(manifest), scan_folder(tree)
    assert all((read.root / path).is_file() for path in read.paths)
    assert read.class_names == original.class_names
    assert read.labels.tolist() == original.labels.tolist()
    return [Path(path).parts[-2:] for path in read.paths] == [Path(path).parts for path in original.paths]


# ---------------------------------------------------------------- the root of a dataset


@pytest.mark.parametrize(
    ("files", "root"),
    [
        (["cane/a.jpg", "gatto/b.jpg"], "."),
        (["cane/a.jpg", "empty/"], "."),
        (["cane/a.jpg"], "."),
        (["cane/deep/a.jpg"], "."),
        (["raw-img/cane/a.jpg"], "raw-img"),
        (["raw-img/cane/a.jpg", "manifest.csv", "other/b.jpg"], "raw-img"),
        (["archive/raw-img/cane/a.jpg"], "archive/raw-img"),
        (["archive/raw-img/cane/a.jpg", "__MACOSX/x/a.jpg", ".git/x/a.jpg"], "archive/raw-img"),
        (["set/cane/a.jpg", "set/gatto/b.jpg"], "set"),
        (["one/two/cane/a.jpg", "one/two/gatto/deep/b.jpg"], "one/two"),
        (["cane/deep/a.jpg", "cane/empty/"], "."),
        (["a.jpg"], "."),
        ([], "."),
    ],
)
def test_the_root_is_found(own_folder, files, root):
    for name in files:
        file = own_folder / name
        (file if name.endswith("/") else file.parent).mkdir(parents=True, exist_ok=True)
        if file.suffix:
            file.write_bytes(b"x")
    assert find_root(own_folder) == own_folder / root


def test_the_root_is_found_through_links_and_never_in_circles(own_folder, tiny_tree):
    (own_folder / "set").mkdir()
    (own_folder / "set/raw-img").symlink_to(tiny_tree)
    assert find_root(own_folder) == own_folder / "set/raw-img"
    assert scan_folder("set").paths == scan_folder(tiny_tree).paths
    (own_folder / "circle").mkdir()
    (own_folder / "circle/again").symlink_to(own_folder / "circle")
    assert find_root(own_folder / "circle") == own_folder / "circle"


def test_a_missing_root_is_returned_as_it_is():
    assert find_root(Path("nowhere")) == Path("nowhere")


# ---------------------------------------------------------------- archive


@pytest.mark.parametrize("prefix", ["raw-img/", "archive/raw-img/", ""])
def test_an_archive_is_unpacked_where_the_configurations_look(own_folder, tmp_path, tiny_tree, prepared, prefix):
    out = prepared("--source", zipped(tiny_tree, tmp_path / "x.zip", prefix))
    root = own_folder / "datasets/animals10/raw-img"
    assert {path: content for path, (content, _) in files(root).items()} == {
        path: content for path, (content, _) in files(tiny_tree).items()
    }
    assert same_images(own_folder / "datasets/animals10/manifest.csv", tiny_tree)
    assert out.startswith("57 images unpacked\n")
    assert re.search(r"^images +datasets/animals10/raw-img$", out, re.M)
    assert re.search(r"^manifest +datasets/animals10/manifest.csv$", out, re.M)
    assert re.search(r"^scan +57 images read in ", out, re.M)
    assert out.endswith(
        "next:\n"
        "  python -m animals_pl analyze datasets/animals10/raw-img\n"
        "  python -m animals_pl fit --config mobilenetv3_small_best\n"
    )


def test_english_names_in_an_archive(own_folder, tmp_path, make_tree, prepared):
    tree = make_tree("english", dict.fromkeys(map(str.title, ENGLISH), 2))
    out = prepared("--source", zipped(tree, tmp_path / "x.zip", "animals10/"))
    assert same_images(own_folder / "datasets/animals10/manifest.csv", tree)
    assert table(out)["Dog"] == ["2", "4,863", "-4,861"]


@pytest.mark.parametrize("name", ["X.ZIP", "x.tgz", "x.tar.gz", "x.tar.xz", "x.tar.bz2", "x.tar"])
def test_archives_are_known_by_their_names(own_folder, tmp_path, tiny_tree, prepared, name):
    if name.endswith("ZIP"):
        zipped(tiny_tree, tmp_path / name)
    else:
        compression = {"tar": "", "tgz": "gz"}.get(name.rpartition(".")[2], name.rpartition(".")[2])
        with tarfile.open(tmp_path / name, f"w:{compression}") as archive:
            archive.add(tiny_tree, "raw-img")
    assert prepared("--source", tmp_path / name).startswith("57 images unpacked\n")


def test_a_second_run_reads_and_writes_no_image(own_folder, tmp_path, tiny_tree, prepared):
    archive = zipped(tiny_tree, tmp_path / "x.zip")
    prepared("--source", archive, "--output", "set")
    manifest, before = (own_folder / "set/manifest.csv").read_text(), pictures(own_folder)
    out = prepared("--source", archive, "--output", "set")
    assert out.startswith("0 images unpacked, 57 already exist\n")
    assert "0 images read (57 unchanged)" in out
    assert pictures(own_folder) == before
    assert (own_folder / "set/manifest.csv").read_text() == manifest


def test_files_of_the_user_stay(own_folder, tmp_path, tiny_tree, prepared):
    mine = own_folder / "set/raw-img/cane/mine.jpg"
    mine.parent.mkdir(parents=True)
    Image.new("RGB", (30, 30), "red").save(mine)
    (own_folder / "set/notes.txt").write_text("keep")
    before = files(own_folder)
    prepared("--source", zipped(tiny_tree, tmp_path / "x.zip"), "--output", "set")
    after = files(own_folder)
    assert before.items() <= after.items()
    assert len(after) == len(before) + 57 + 1  # the images and the manifest


def test_a_file_that_only_has_the_manifests_name_stays(own_folder, tiny_tree, refused):
    (own_folder / "set").mkdir()
    (own_folder / "set/manifest.csv").write_text("name,colour\n")
    message = refused("--source", tiny_tree, "--output", "set")
    assert "'set/manifest.csv'" in message
    assert "Rename it" in message
    assert list(files(own_folder)) == ["set/manifest.csv"]
    assert not (own_folder / "set/raw-img").exists()


def test_an_archive_is_not_unpacked_through_a_link(own_folder, tmp_path, make_tree, tiny_tree, prepared, refused):
    mine = make_tree("mine", {"cane": 2, "gatto": 2})
    prepared("--source", mine, "--output", "set")
    before = files(mine)
    message = refused("--source", zipped(tiny_tree, tmp_path / "x.zip"), "--output", "set")
    assert f"'set/raw-img' is a link to {str(mine)!r}" in message
    assert files(mine) == before


def test_an_output_that_cannot_be_is_named(own_folder, tmp_path, tiny_tree, refused):
    (own_folder / "file").write_text("x")
    message = refused("--source", zipped(tiny_tree, tmp_path / "x.zip"), "--output", "file/set")
    assert f"output='file/set' cannot be created: '{own_folder / 'file'}' is a file. Choose another output." in message


# ---------------------------------------------------------------- folder


@pytest.mark.parametrize("around", [".", ".."])
def test_a_folder_is_linked_and_nothing_copied(own_folder, tiny_tree, prepared, around):
    out = prepared("--source", tiny_tree / around)
    link = own_folder / "datasets/animals10/raw-img"
    assert link.readlink() == tiny_tree.resolve()
    assert list(files(own_folder)) == ["datasets/animals10/manifest.csv"]
    assert same_images(own_folder / "datasets/animals10/manifest.csv", tiny_tree)
    assert f"datasets/animals10/raw-img -> {tiny_tree.resolve()}\n" in out
    assert "--data.root" not in out
    assert scan_folder("datasets/animals10").paths == scan_folder(tiny_tree).paths


def test_a_link_that_is_there_is_fine(own_folder, tiny_tree, prepared):
    prepared("--source", tiny_tree)
    for again in (tiny_tree, "datasets/animals10", "datasets/animals10/raw-img"):
        assert "0 images read (57 unchanged)" in prepared("--source", again)
    assert (own_folder / "datasets/animals10/raw-img").readlink() == tiny_tree.resolve()


def test_a_folder_in_its_place_is_used_where_it_is(own_folder, tiny_tree, prepared):
    shutil.copytree(tiny_tree, own_folder / "datasets/animals10/raw-img")
    before = pictures(own_folder)
    prepared("--source", "datasets/animals10")
    assert pictures(own_folder) == before
    assert not (own_folder / "datasets/animals10/raw-img").is_symlink()


def test_class_folders_directly_in_the_output_are_used_where_they_are(own_folder, tiny_tree, prepared):
    shutil.copytree(tiny_tree, own_folder / "my images")
    out = prepared("--source", "my images", "--output", "my images")
    assert same_images(own_folder / "my images/manifest.csv", tiny_tree)
    assert not (own_folder / "my images/raw-img").exists()
    assert "mobilenetv3_small_best --data.root 'my images'\n" in out


@pytest.mark.parametrize("obstacle", ["link", "dangling link", "folder", "file"])
def test_another_raw_img_is_named_and_kept(own_folder, make_tree, tiny_tree, refused, obstacle):
    (own_folder / "set").mkdir()
    there = own_folder / "set/raw-img"
    match obstacle:
        case "link":
            there.symlink_to(make_tree("mine", {"cane": 1}))
        case "dangling link":
            there.symlink_to("nowhere")
        case "folder":
            there.mkdir()
        case "file":
            there.write_text("mine")
    before = there.lstat()
    message = refused("--source", tiny_tree, "--output", "set")
    assert "'set/raw-img' " in message
    assert "another --output" in message
    assert there.lstat() == before


def test_an_output_inside_the_images_is_refused(make_tree, refused):
    tree = make_tree("mine", {"cane": 1, "gatto": 1})
    assert "inside the image folder" in refused("--source", tree, "--output", tree / "prepared")
    assert sorted(path.name for path in tree.iterdir()) == ["cane", "gatto"]


def test_where_links_are_impossible_another_way_is_named(own_folder, tiny_tree, refused, monkeypatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(1, "links are not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    message = refused("--source", tiny_tree)
    assert "links are not permitted" in message
    assert f"--data.root {tiny_tree.resolve()}" in message
    assert files(own_folder) == {}


def test_a_folder_that_is_no_dataset_leaves_nothing_behind(own_folder, tmp_path, refused):
    (tmp_path / "other/docs").mkdir(parents=True)
    message = refused("--source", tmp_path / "other")
    assert "source=" in message
    assert "'docs' has no images" in message
    assert list(own_folder.iterdir()) == []


# ---------------------------------------------------------------- what is said of the images


def test_counts_stand_beside_animals10s(tiny_tree, prepared):
    out = prepared("--source", tiny_tree)
    assert table(out)["cane (dog)"] == ["8", "4,863", "-4,855"]
    assert table(out)["total"] == ["57", "26,179", "-26,122"]
    assert list(table(out)) == [f"{name} ({english})" for name, english in ANIMALS10.items()] + ["total"]
    assert out.count("warning: ") == 1
    assert "\nwarning: class counts that differ from Animals-10: cane (dog), cavallo (horse), " in out


def test_right_counts_bring_no_warning(tiny_tree, prepared, monkeypatch):
    monkeypatch.setattr(prepare_file, "ANIMALS10_COUNTS", scan_folder(tiny_tree).counts())
    out = prepared("--source", tiny_tree)
    assert "warning" not in out
    assert table(out)["cane (dog)"] == ["8", "8"]


def test_classes_more_and_less_are_named(make_tree, tiny_tree, prepared, monkeypatch):
    tree = make_tree("zoo", dict.fromkeys([*ENGLISH[:3], *ENGLISH[4:]], 2) | {"zebra": 3})
    monkeypatch.setattr(prepare_file, "ANIMALS10_COUNTS", dict.fromkeys(ANIMALS10, 2) | {"cane": 1})
    out = prepared("--source", tree)
    assert re.findall("^warning: .*", out, re.M) == [
        "warning: missing classes of Animals-10: farfalla (butterfly)",
        "warning: classes that are not in Animals-10: zebra",
        "warning: class counts that differ from Animals-10: dog",
    ]
    assert table(out)["farfalla (butterfly)"] == ["0", "2", "-2"]
    assert table(out)["dog"] == ["2", "1", "+1"]
    assert table(out)["zebra"] == ["3", "0", "+3"]
    assert table(out)["cat"] == ["2", "2"]


def test_other_animals_are_not_compared(make_tree, prepared):
    out = prepared("--source", make_tree("zoo", {"zebra": 2, "lion": 3, "cat": 1}))
    assert "Animals-10" not in out
    assert "warning" not in out
    assert table(out) == {"cat": ["1"], "lion": ["3"], "zebra": ["2"], "total": ["6"]}


def test_broken_images_and_copies_are_reported(make_tree, prepared):
    tree = make_tree("zoo", {"lion": 4, "zebra": 4})
    content = (tree / "lion/lion_0.jpg").read_bytes()
    (tree / "lion/copy.jpg").write_bytes(content)
    (tree / "zebra/copy.jpg").write_bytes(content)
    (tree / "zebra/also.jpg").write_bytes((tree / "zebra/zebra_0.jpg").read_bytes())
    with Image.open(tree / "zebra/zebra_1.jpg") as picture:
        picture.save(tree / "zebra/near.png")
    for broken in ("lion/empty.jpg", "zebra/empty.jpg"):  # no copies of an image
        (tree / broken).write_bytes(b"")
    out = prepared("--source", tree)
    assert re.search(r"^broken +2 images\n  lion/empty.jpg: empty file.*\n  zebra/empty.jpg: empty file", out, re.M)
    assert re.search(r"^exact duplicates +5 images in 2 groups; groups with conflicting labels: 1$", out, re.M)
    assert re.search(r"^near-duplicates +2 images in 1 group; groups with conflicting labels: none$", out, re.M)
    assert " near-duplicates, such as" not in out


def test_of_many_broken_images_ten_are_named(make_tree, prepared):
    tree = make_tree("zoo", {"lion": 2, "zebra": 2})
    for n in range(13):
        (tree / f"lion/broken_{n:02}.jpg").write_text("no image")
    out = prepared("--source", tree)
    assert re.findall(r"^  lion/broken_(\d\d)\.jpg: not an image", out, re.M) == [f"{n:02}" for n in range(10)]
    assert "\n  and 3 more" in out


def test_large_groups_are_listed(make_tree, prepared):
    tree = make_tree("zoo", {"lion": 2, "zebra": 2})
    for n in range(11):
        shutil.copy(tree / "lion/lion_0.jpg", tree / f"lion/copy_{n:02}.jpg")
    assert "\n  12 near-duplicates, such as lion/copy_00.jpg\n" in prepared("--source", tree)


def test_class_names_are_printed_as_they_are(make_tree, prepared):
    out = prepared("--source", make_tree("zoo", {":cat:": 2, "lynx [male]": 2, "$$": 2}))
    assert table(out) == {"$$": ["2"], ":cat:": ["2"], "lynx [male]": ["2"], "total": ["6"]}


def test_file_names_of_any_bytes_are_printed(make_tree, prepared):
    tree = make_tree("zoo", {"lion": 2, "zebra": 2})
    (tree / "lion/caf\udce9.jpg").write_text("no image")
    assert "  lion/caf\\udce9.jpg: not an image" in prepared("--source", tree)


# ---------------------------------------------------------------- practice


def test_practice_is_drawn_once_and_is_what_fit_draws(own_folder, prepared):
    assert prepared("--count", 20).startswith("20 images generated\n")
    before = pictures(own_folder)
    assert before.keys() == {f"datasets/practice/{name}/{name}_{n:04}.jpg" for name in ANIMALS10 for n in (1, 2)}
    manifest = (own_folder / "datasets/practice/manifest.csv").read_text()
    out = prepared("--source", "practice", "--count", 20)
    assert out.startswith("the practice set of 20 images already exists\n")
    assert "0 images read (20 unchanged)" in out
    assert "Animals-10" not in out
    assert out.endswith("fit --config quickstart\n")
    assert pictures(own_folder) == before
    assert (own_folder / "datasets/practice/manifest.csv").read_text() == manifest
    assert len(catalog_of("datasets/practice/manifest.csv").paths) == 20


def test_a_practice_set_that_fit_drew_is_kept(own_folder, prepared):
    draw_practice_set("datasets/practice", 24)
    before = pictures(own_folder)
    assert "already exists" in prepared("--count", 24)
    assert pictures(own_folder) == before


@pytest.mark.parametrize("args", [["--count", 25], ["--seed", 1]])
def test_another_practice_set_is_not_drawn_over_the_first(own_folder, prepared, refused, args):
    prepared("--count", 24)
    before = files(own_folder)
    message = refused("--count", 24, *args)
    assert "output='datasets/practice'" in message
    assert "Choose another folder" in message
    assert files(own_folder) == before


def test_practice_is_not_drawn_into_a_folder_in_use(own_folder, tiny_tree, refused):
    shutil.copytree(tiny_tree, own_folder / "mine")
    before = files(own_folder)
    assert "output='mine'" in refused("--count", 57, "--output", "mine")
    assert files(own_folder) == before


# ---------------------------------------------------------------- kaggle


class Kaggle(http.server.BaseHTTPRequestHandler):
    """Stands in for Kaggle: knows one dataset, version 2."""

    archive: bytes
    asked: list[str]

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        call = self.path.rpartition("/")[2]
        self.asked.append(call)
        if (request["ownerSlug"], request["datasetSlug"]) != ("alessiocorrado99", "animals10"):
            self.send_error(404)
        elif call == "GetDataset":
            self._answer("application/json", json.dumps({"currentVersionNumber": 2}).encode())
        elif call == "DownloadDataset" and request["datasetVersionNumber"] == 2:
            self._answer("application/zip", self.archive)
        else:
            self.send_error(400)

    def _answer(self, kind: str, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def no_kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send what is meant for Kaggle to a port of this machine where nobody listens, without a user's credentials."""
    for variable in [name for name in os.environ if name.upper().startswith("KAGGLE") or name.upper() == "NO_PROXY"]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kagglehub"))
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")  # plain HTTP, which a proxy can answer
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")


@pytest.fixture
def kaggle(no_kaggle: None, tiny_tree: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Kaggle]]:
    """Serve the tiny tree as Kaggle would serve Animals-10, to this machine only."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("translate.py", "translate = {}")
        for path, (content, _) in files(tiny_tree).items():
            archive.writestr(f"raw-img/{path}", content)
    handler = type("TinyKaggle", (Kaggle,), {"archive": stream.getvalue(), "asked": []})

    def connect(self: socket.socket, address: tuple[str, int]) -> None:
        assert address[0] == "127.0.0.1"
        _socket.socket.connect(self, address)  # what the fixture no_network has replaced

    monkeypatch.setattr(socket.socket, "connect", connect)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield handler
        server.shutdown()
        thread.join()


def test_kaggle_is_downloaded_once_and_linked(own_folder, tmp_path, tiny_tree, kaggle, capsys):
    for _ in range(2):
        assert main(["prepare", "--source", "kaggle"]) == 0
    root = tmp_path / "kagglehub/datasets/alessiocorrado99/animals10/versions/2/raw-img"
    assert (own_folder / "datasets/animals10/raw-img").readlink() == root.resolve()
    assert files(root).keys() == files(tiny_tree).keys()
    assert same_images(own_folder / "datasets/animals10/manifest.csv", tiny_tree)
    out = capsys.readouterr().out
    assert "57 images read" in out
    assert "0 images read (57 unchanged)" in out
    assert kaggle.asked == ["GetDataset", "DownloadDataset", "GetDataset"]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda server: setattr(server, "archive", b"no archive"), "Unsupported archive"),
        (lambda server: setattr(server, "do_POST", lambda self: self.send_error(403, "consent needed")), "403"),
        (lambda server: setattr(server, "do_POST", lambda self: self.send_error(404)), "404"),
    ],
    ids=["no archive", "forbidden", "gone"],
)
def test_what_kaggle_refuses_is_said_with_a_remedy(own_folder, kaggle, refused_beside_noise, spoil, reason):
    spoil(kaggle)
    message = refused_beside_noise("--source", "kaggle")
    assert "source=kaggle cannot be downloaded (" in message
    assert reason in message
    assert "--source ARCHIVE.zip" in message
    assert list(own_folder.iterdir()) == []


@pytest.fixture
def refused_beside_noise(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function like ``refused`` that allows for a progress bar above the message."""

    def run(*args: object) -> str:
        assert main(["prepare", *map(str, args)]) == 2
        *_, last = capsys.readouterr().err.splitlines()
        assert last.startswith("animals_pl prepare: error: ")
        return last

    return run


def test_no_network_is_said_with_a_remedy(own_folder, no_kaggle, refused):
    message = refused("--source", "kaggle")
    assert "the tests have no network" in message
    assert "https://www.kaggle.com/datasets/alessiocorrado99/animals10" in message
    assert list(own_folder.iterdir()) == []


def test_a_missing_kagglehub_is_said_with_a_remedy(own_folder, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    message = refused("--source", "kaggle")
    assert "Run pip install 'animals_pl[train,kaggle]', or download " in message
    assert "--source ARCHIVE.zip" in message


# ---------------------------------------------------------------- wrong sources


@pytest.mark.parametrize("source", ["nowhere", "nowhere.zip", "notes.txt", "kagle", "https://example.org/x.zip", ""])
def test_an_unknown_source_is_refused_with_all_kinds(own_folder, refused, source):
    (own_folder / "notes.txt").write_text("no archive")
    message = refused("--source", source)
    assert f"source={source!r} {'is not an archive' if source == 'notes.txt' else 'does not exist'}" in message
    for kind in ("practice", "kaggle", "hf://datasets/OWNER/NAME", ".zip, .tar, .tar.gz", "folder"):
        assert kind in message
    assert ("Did you mean 'kaggle'?" in message) == (source == "kagle")
    assert [path.name for path in own_folder.iterdir()] == ["notes.txt"]


def test_a_folder_may_be_named_like_a_source(own_folder, make_tree, tiny_tree, prepared):
    shutil.copytree(tiny_tree, own_folder / "kaggle")
    assert "57 images read" in prepared("--source", "./kaggle")


def test_too_few_pictures_are_refused(own_folder, refused):
    assert "count=19" in refused("--count", 19)
    assert list(own_folder.iterdir()) == []


def test_a_manifest_of_images_that_are_gone_is_refused(own_folder, tmp_path, tiny_tree, prepared):
    prepared("--source", zipped(tiny_tree, tmp_path / "x.zip"), "--output", "set")
    shutil.rmtree(own_folder / "set/raw-img/cane")
    with pytest.raises(UsageError, match=r"lists 8 missing images"):
        catalog_of(own_folder / "set/manifest.csv")
    prepared("--source", tmp_path / "x.zip", "--output", "set")
    assert same_images(own_folder / "set/manifest.csv", tiny_tree)
