"""Datasets of the Hugging Face Hub, from a stand-in on this machine; the code of huggingface_hub is the real one."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hub_server import StandIn, isolate, served, use_endpoint
from PIL import Image

from animals_pl.cli import main
from animals_pl.data.catalog import scan_folder
from animals_pl.data.sources import parquet as parquet_file
from animals_pl.data.sources.hub_dataset import split_of_files
from animals_pl.errors import UsageError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAMES = ["cat", "dog/wolf", "horse"]


class Hub(StandIn):
    """Stands in for the hub: knows the dataset zoo/animals at one commit."""

    files: dict[str, bytes]
    refusal: tuple[int, str] | None
    asked: list[str]

    def respond(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.asked.append(f"{self.command} {path}")
        api, resolve = "/api/datasets/zoo/animals/", f"/datasets/zoo/animals/resolve/{COMMIT}/"
        name = path.removeprefix(resolve)
        if self.refusal:
            self.answer(*self.refusal[:1], b"{}", {"X-Error-Code": self.refusal[1]})
        elif path in (f"{api}revision/v1", "/api/datasets/zoo/animals", f"{api}revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in self.files]
            self.answer_json({"id": "zoo/animals", "sha": COMMIT, "siblings": siblings, "private": False})
        elif path.startswith(f"{api}revision/"):
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif path == f"{api}tree/{COMMIT}":
            rows = [("file", name, content) for name, content in self.files.items()]
            self.answer_json([{"type": kind, "path": name, "size": len(c), "oid": _sha(c)} for kind, name, c in rows])
        elif name in self.files:
            content = self.files[name]
            self.answer(200, content, {"ETag": f'"{_sha(content)}"', "X-Repo-Commit": COMMIT})
        else:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})


def _sha(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, with caches of its own and without a user's token."""
    return isolate(tmp_path, monkeypatch)


@pytest.fixture
def hub(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """Serve files, to this machine only."""
    handler = type("TinyHub", (Hub,), {"files": {}, "refusal": None, "asked": []})
    with served(handler, monkeypatch):
        yield handler


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs prepare, proves that it was refused, and returns the last line."""

    def run(source: str = "hf://datasets/zoo/animals") -> str:
        assert main(["prepare", "--source", source, "--output", "set"]) == 2
        *_, last = capsys.readouterr().err.splitlines()  # progress bars and retries come first
        assert last.startswith(f"animals_pl prepare: error: source='{source}")
        return last

    return run


def prepared(source: str = "hf://datasets/zoo/animals") -> Path:
    assert main(["prepare", "--source", source, "--output", "set"]) == 0
    return Path("set/raw-img")


def tree_files(tree: Path) -> dict[str, bytes]:
    return {file.relative_to(tree).as_posix(): file.read_bytes() for file in sorted(tree.rglob("*.jpg"))}


# ---------------------------------------------------------------- folders of images


def test_folders_are_downloaded_once_and_linked(hub, tiny_tree):
    images = tree_files(tiny_tree)
    hub.files = {
        "README.md": b"# zoo",
        "all.zip": b"a copy",
        **{f"data/{path}": image for path, image in images.items()},
    }
    for _ in range(2):
        root = prepared()
    assert root.is_symlink()
    found = scan_folder(root)
    assert {path: (found.root / path).read_bytes() for path in found.paths} == images
    gets = [call for call in hub.asked if call.startswith("GET /datasets/")]
    assert len(gets) == len(images) + 1
    assert not any("all.zip" in call for call in gets)
    assert (Path("set") / "manifest.csv").is_file()


def test_a_revision_may_be_given(hub, tiny_tree, refused):
    hub.files = tree_files(tiny_tree)
    assert len(scan_folder(prepared("hf://datasets/zoo/animals@v1")).paths) == 57
    assert "has no revision 'v2'" in refused("hf://datasets/zoo/animals@v2")


def test_a_repository_without_images_is_refused(hub, refused):
    hub.files = {"README.md": b"#", "data.zip": b"zip"}
    assert "has neither Parquet files nor folders of images (it has README.md, data.zip)" in refused()


def test_a_name_that_climbs_out_is_not_written(hub, own_folder, tiny_tree, refused):
    hub.files = {**tree_files(tiny_tree), "cane/../../../../../evil.jpg": b"evil"}
    assert "its file 'cane/../../../../../evil.jpg' is outside the folder" in refused()
    assert list(own_folder.parent.rglob("evil.jpg")) == []


# ---------------------------------------------------------------- Parquet


def image_bytes(value: int, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (20 + value, 30), (value, 2 * value, 3 * value)).save(stream, kind)
    return stream.getvalue()


def table(labels: list[object], names: list[str] | None = NAMES, kind: str = "PNG", first: int = 10, **columns: object):
    """A Parquet file as the library datasets writes it."""
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": image_bytes(first + index, kind), "path": "../x.jpg"} for index in range(len(labels))]
    data = pa.table({"image": images, "label": labels, **columns})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        data = data.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    stream = io.BytesIO()
    parquet.write_table(data, stream, row_group_size=2)
    return stream.getvalue()


def test_parquet_becomes_one_folder_per_class(hub, capsys):
    content = table([0, 1, 2, 0, -1, None])
    hub.files = {"README.md": b"#", "images/banner.png": b"x", "data/train-00000-of-00001.parquet": content}
    root = prepared()
    assert "4 images unpacked, 2 other items left out" in capsys.readouterr().out
    assert scan_folder(root).counts() == {"cat": 2, "dog_wolf": 1, "horse": 1}
    assert (root / "cat/00000_0000003.png").read_bytes() == image_bytes(13)
    assert not any("banner" in call for call in hub.asked)
    before = {file: file.stat().st_mtime_ns for file in root.rglob("*.png")}
    (root / "horse/00000_0000002.png").unlink()  # as after an interruption
    prepared()
    assert "1 image unpacked, 3 already exist" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in before if file.parent.name != "horse"}.items() <= before.items()


def test_splits_of_parquet_files_become_split_folders(hub):
    for split, first in (("train", 10), ("validation", 20), ("test", 30)):
        for part in (0, 1):
            hub.files[f"data/{split}-0000{part}-of-00002.parquet"] = table(
                [0, 1, 2], kind="JPEG", first=first + 3 * part
            )
    catalog = scan_folder(prepared())
    assert set(catalog.split_folders.values()) == {"train", "val", "test"}
    assert len(catalog.paths) == 18
    assert catalog.class_names == ["cat", "dog_wolf", "horse"]
    assert all(path.endswith(".jpg") for path in catalog.paths)


def test_labels_may_be_names_without_metadata(hub):
    hub.files = {"train.parquet": table(["owl", "owl", "fox"], names=None)}
    assert scan_folder(prepared()).counts() == {"fox": 1, "owl": 2}


def test_an_image_that_does_not_decode_is_reported_as_broken(hub, capsys):
    hub.files = {"train.parquet": table([0, 1], image=[{"bytes": image_bytes(9)}, {"bytes": b"no image"}])}
    prepared()
    assert "broken            1 image" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (lambda: {"a.parquet": b"PAR1 is not enough"}, "a Parquet file cannot be read ("),
        (lambda: {"a.parquet": table([0, 3])}, "its column label has the value 3, but there are 3 classes"),
        (lambda: {"a.parquet": table([0], ["..", "b", "c"])}, "its class '..' cannot be the name of a folder"),
        (lambda: {"a.parquet": table([0], ["x" * 256])}, "cannot be the name of a folder"),
        (lambda: {"a.parquet": table([0], names=5)}, "the class names of its column label are damaged"),
        (lambda: {"a.parquet": table([-1, None])}, "no row has an image and a label"),
        (
            lambda: {"a.parquet": table([0], None, image=[1])},
            "exactly one image column and one label column (it has image, label)",
        ),
        (lambda: {"x/a.parquet": table([0]), "y/a.parquet": table([0])}, "has several configurations (x, y)"),
    ],
    ids=["damaged", "label", "name", "long name", "names", "no labels", "no images", "configurations"],
)
def test_parquet_that_cannot_be_used_is_refused(hub, refused, files, reason):
    hub.files = files()
    assert reason in refused()
    assert not Path("set/manifest.csv").exists()


def test_a_different_file_is_not_overwritten(hub, capsys):
    hub.files = {"a.parquet": table([0, 1])}
    other = prepared() / "cat/00000_0000000.png"
    other.write_bytes(b"mine")
    assert main(["prepare", "--source", "hf://datasets/zoo/animals", "--output", "set"]) == 2
    assert "exists and differs from the image in the dataset (4 bytes instead" in capsys.readouterr().err
    assert other.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("limit", "reason"), [("MAX_ENTRIES", "more than 1 rows"), ("ALWAYS_ALLOWED", "too many bytes")]
)
def test_too_much_is_refused(hub, refused, limit, reason, monkeypatch):
    hub.files = {"a.parquet": table([0, 1])}
    monkeypatch.setattr(parquet_file, limit, 1)
    monkeypatch.setattr(parquet_file, "MAX_EXPANSION", 0 if limit == "ALWAYS_ALLOWED" else 20)
    assert reason in refused()


def test_a_missing_pyarrow_is_said_with_the_remedy(hub, refused, monkeypatch):
    hub.files = {"a.parquet": b"PAR1"}
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "needs pyarrow. Run pip install 'animals_pl[train,hub]'" in refused()


def test_splits_are_read_from_names_and_folders():
    converted = ["default/train/0000.parquet", "default/test/0000.parquet"]
    assert split_of_files(converted, "s") == dict(zip(converted, ["train", "test"], strict=True))
    assert split_of_files(["data/train-0.parquet", "data/train-1.parquet"], "s").keys() == {
        "data/train-0.parquet",
        "data/train-1.parquet",
    }
    assert set(split_of_files(["data/train-0.parquet"], "s").values()) == {""}
    with pytest.raises(UsageError, match=r"'data/extra-0.parquet' is not in a training"):
        split_of_files(["data/train-0.parquet", "data/test-0.parquet", "data/extra-0.parquet"], "s")


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        ((401, ""), "was refused by the hub ("),
        ((401, "RepoNotFound"), "does not exist, or is private. Check the name. Run 'hf auth login' or set HF_TOKEN"),
        ((404, "RepoNotFound"), "does not exist, or is private"),
        ((403, "GatedRepo"), "is gated. Accept its conditions on its page on the hub. Run 'hf auth login'"),
        ((403, ""), "was refused by the hub ("),
        ((500, ""), "Try again later."),
    ],
    ids=["wrong token", "no token", "gone", "gated", "forbidden", "down"],
)
def test_what_the_hub_refuses_is_said_with_a_remedy(hub, refused, refusal, reason):
    hub.refusal = refusal
    assert reason in refused()
    assert not Path("set").exists()


def test_no_network_is_said_with_a_remedy(refused, monkeypatch):
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert "cannot be reached (" in refused()


def test_a_missing_huggingface_hub_is_said_with_the_remedy(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "needs huggingface_hub. Run pip install 'animals_pl[train,hub]'" in refused()


@pytest.mark.parametrize(
    "source", ["hf://zoo/animals", "hf://datasets/animals", "hf://datasets/zoo/a@", "hf://datasets/../a"]
)
def test_a_wrong_address_is_refused(refused, source):
    assert "is not an address of a dataset. Pass hf://datasets/OWNER/NAME" in refused(source)


def test_a_name_that_the_hub_cannot_have_is_refused(refused):
    assert "is not a valid name (" in refused("hf://datasets/zoo/a..b")
