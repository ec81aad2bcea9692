"""Push runs to the Hugging Face Hub and load models from it; the hub is a stand-in on this machine."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import numpy as np
import onnx
import pytest
import timm
import torch
from hub_server import StandIn, isolate, served, use_endpoint

from animals_pl import AnimalClassifier, AnimalsDataModule, Identifier, fit, load_model
from animals_pl import push as push_module
from animals_pl.cli import main
from animals_pl.errors import UsageError
from animals_pl.training.checkpoint import load_checkpoint

TIMM = {"config.json", "model.safetensors"}
ALWAYS = {"README.md", "best.ckpt", "model.onnx"}


class Hub(StandIn):
    """Stands in for the hub: keeps models as name → files, and the names of the private ones."""

    models: dict[str, dict[str, bytes]]
    private: set[str]
    uploads: dict[str, bytes]
    asked: list[str]
    refusals: dict[str, tuple[int, str]]
    """Part of a call such as "POST /api" → status and X-Error-Code of the answer."""

    def respond(self) -> None:
        path = unquote(urlsplit(self.path).path)
        call = f"{self.command} {path}"
        self.asked.append(call)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        refusal = next((refusal for part, refusal in self.refusals.items() if part in call), None)
        name = next((name for name in self.models if f"/{name}" in path), "")
        if refusal is None and self.headers.get("Authorization") != "Bearer hf_test" and "/lfs/" not in path:
            refusal = (401, "RepoNotFound" if "/api/models/" in path else "")
        if refusal:
            self.answer(refusal[0], b"{}", {"X-Error-Code": refusal[1]})
        elif call == "GET /api/whoami-v2":
            self.answer_json({"type": "user", "name": "zoo"})
        elif call == "POST /api/validate-yaml":
            self.answer_json({"errors": [], "warnings": []})
        elif call == "POST /api/repos/create":
            self._create(json.loads(body))
        elif call.startswith("PUT /lfs/"):
            self.uploads[path.removeprefix("/lfs/")] = body
            self.answer(200, b"", {})
        elif name:
            self._respond_for(name, call.replace(f"/{name}", "/NAME", 1), body)
        else:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _create(self, values: dict[str, str]) -> None:
        name = f"{values['organization']}/{values['name']}"
        self.models[name] = {".gitattributes": b""}
        if values["visibility"] == "private":
            self.private.add(name)
        self.answer_json({"url": f"{huggingface_hub.constants.ENDPOINT}/{name}"})

    def _respond_for(self, name: str, call: str, body: bytes) -> None:
        files, url = self.models[name], huggingface_hub.constants.ENDPOINT
        lines = [json.loads(line) for line in body.splitlines()] if "/lfs/" not in call else [json.loads(body)]
        if call == "GET /api/models/NAME":
            siblings = [{"rfilename": file} for file in files]
            self.answer_json({"id": name, "sha": "1" * 40, "private": name in self.private, "siblings": siblings})
        elif call == "POST /api/models/NAME/preupload/main":
            modes = {True: "regular", False: "lfs"}
            sent = [file["path"] for file in lines[0]["files"]]
            answer = [
                {"path": p, "uploadMode": modes[p.endswith((".md", ".json"))], "shouldIgnore": False} for p in sent
            ]
            self.answer_json({"files": answer})
        elif call.endswith("/info/lfs/objects/batch"):
            objects = [
                {**item, "actions": {"upload": {"href": f"{url}/lfs/{item['oid']}"}}} for item in lines[0]["objects"]
            ]
            self.answer_json({"transfer": "basic", "objects": objects})
        elif call == "POST /api/models/NAME/commit/main":
            for line in lines:
                self._commit(files, line["key"], line["value"])
            self.answer_json({"commitUrl": f"{url}/{name}/commit/{'2' * 40}", "commitOid": "2" * 40})
        elif call == "PUT /api/models/NAME/settings":
            (self.private.add if lines[0]["visibility"] == "private" else self.private.discard)(name)
            self.answer_json({})
        else:
            self._download(files, call.rpartition("/resolve/")[2].partition("/"))

    def _commit(self, files: dict[str, bytes], key: str, value: dict[str, str]) -> None:
        if key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            files[value["path"]] = self.uploads[value["oid"]]
        elif key == "deletedFile":
            del files[value["path"]]
        else:
            assert key == "header"

    def _download(self, files: dict[str, bytes], wanted: tuple[str, str, str]) -> None:
        revision, _, file = wanted
        if revision not in ("main", "v1"):
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif file in files:
            etag = hashlib.sha256(files[file]).hexdigest()
            self.answer(200, files[file], {"ETag": f'"{etag}"', "X-Repo-Commit": "2" * 40})
        else:
            self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, with a cache of its own and a token."""
    folder = isolate(tmp_path, monkeypatch)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # the stand-in has LFS only
    return folder


@pytest.fixture
def hub(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """An empty hub."""
    state = {"models": {}, "private": set(), "uploads": {}, "asked": [], "refusals": {}}
    handler = type("TinyHub", (Hub,), state)
    with served(handler, monkeypatch):
        yield handler


def train(folder: Path, tree: Path, **model: object) -> Path:
    """Train a model and evaluate it; return the folder of its run."""
    data = AnimalsDataModule(str(tree), size=32, batch_size=16, num_workers=0, test_fraction=0.2)
    options = {"default_root_dir": str(folder), "max_epochs": 1, "accelerator": "cpu", "name": "mine"}
    run = fit(AnimalClassifier(**model), data, **options)
    cpu = ["--trainer.accelerator", "cpu", "--data.num_workers", "0"]
    for verb in ("validate", "test"):
        assert main([verb, "--ckpt_path", str(run.best_path), *cpu]) == 0
    return run.folder


@pytest.fixture(scope="module")
def own_net(tiny_tree: Path, small_figures: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a net without a timm form. Read only."""
    return train(tmp_path_factory.mktemp("own"), tiny_tree, net="shallownet")


@pytest.fixture(scope="module")
def timm_net(tiny_tree: Path, small_figures: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a net with a timm form, trained from a file of weights. Read only."""
    folder = tmp_path_factory.mktemp("timm")
    weights = folder / "start.pth"
    torch.save(timm.create_model("mobilenetv3_small_050").state_dict(), weights)
    options = {"features": "pre_logits", "weights": str(weights), "freeze": True}
    return train(folder / "runs", tiny_tree, net="mobilenetv3_small_050", **options)


@pytest.fixture(autouse=True, scope="module")
def files_are_written_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Export each run once: it takes seconds."""

    @cache
    def write(run: Path) -> dict[str, Path]:
        return write_files(run, tmp_path_factory.mktemp("files"))

    write_files = push_module._write_files
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(push_module, "_write_files", lambda run, folder: write(run))
        yield


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs push, proves that it was refused, and returns the message."""

    def run(*args: object) -> str:
        assert main(["push", *map(str, args)]) == 2
        *_, last = capsys.readouterr().err.splitlines()  # progress bars come first
        return last.removeprefix("animals_pl push: error: ")

    return run


def push(run: Path, *options: str, repo: str = "zoo/net") -> None:
    assert main(["push", str(run), repo, *options]) == 0


def changes(hub: type[Hub]) -> list[str]:
    """Calls that change something, without uploads."""
    return [
        call.partition(" ")[2].rpartition("/api")[2]
        for call in hub.asked
        if call.split()[0] in {"POST", "PUT"} and call.endswith(("create", "commit/main", "settings"))
    ]


CREATE, COMMIT, SETTINGS = "/repos/create", "/models/zoo/net/commit/main", "/models/zoo/net/settings"

# ---------------------------------------------------------------- what is uploaded


def test_a_new_repository_is_private_and_gets_all_files_in_one_commit(hub, timm_net, capsys):
    push(timm_net)
    assert hub.models["zoo/net"].keys() - {".gitattributes"} == ALWAYS | TIMM
    assert hub.private == {"zoo/net"}
    assert changes(hub) == [CREATE, COMMIT]
    printed = capsys.readouterr().out
    assert "zoo/net (private): README.md, best.ckpt, config.json, model.onnx, model.safetensors uploaded" in printed


def test_a_model_without_a_timm_form_is_pushed_without_it(hub, own_net, tmp_path, capsys):
    push(Path(shutil.copytree(own_net, tmp_path / "copy")))
    assert hub.models["zoo/net"].keys() - {".gitattributes"} == ALWAYS
    assert (
        "without config.json and model.safetensors: format=timm does not suit this model: "
        "model.net=shallownet is not a timm model\n"
    ) in capsys.readouterr().out


def test_another_run_replaces_all_files_and_removes_stale_ones(hub, own_net, timm_net):
    push(timm_net)
    before = dict(hub.models["zoo/net"])
    hub.models["zoo/net"]["notes.txt"] = b"mine"
    push(own_net)
    files = hub.models["zoo/net"]
    assert files.keys() == ALWAYS | {".gitattributes", "notes.txt"}
    assert all(files[name] != before[name] for name in ALWAYS)
    assert changes(hub) == [CREATE, COMMIT, COMMIT]


def test_no_file_has_a_path_of_this_machine(hub, own_net, timm_net, tiny_tree, tmp_path_factory):
    base = str(tmp_path_factory.getbasetemp())
    for run in (own_net, timm_net):
        assert base in str(load_checkpoint(run / "best.ckpt")["datamodule_hyper_parameters"])
        push(run)
        for name, content in hub.models["zoo/net"].items():
            assert base.encode() not in content, name
            assert str(Path.home()).encode() not in content or str(Path.home()) == "/", name


def test_the_card_names_files_without_their_folder(hub, own_net, tmp_path):
    run = Path(shutil.copytree(own_net, tmp_path / "copy"))
    config = (run / "config.yaml").read_text(encoding="utf-8")
    assert "augment: none" in config
    (run / "config.yaml").write_text(config.replace("augment: none", f"augment: {tmp_path}/mine.yaml"))
    push(run)
    card = hub.models["zoo/net"]["README.md"].decode()
    assert "| data.augment | mine.yaml |" in card


def test_golden_images_are_drawings(hub, own_net):
    push(own_net)
    exported = onnx.load_from_string(hub.models["zoo/net"]["model.onnx"])
    assert {entry.key: entry.value for entry in exported.metadata_props}["golden_source"] == "practice"


# ---------------------------------------------------------------- what is loaded


def test_both_functions_give_the_probabilities_of_the_run(hub, timm_net, tiny_tree):
    push(timm_net)
    images = sorted(map(str, tiny_tree.rglob("*.jpg")))
    local, loaded, identifier = (
        load_model(timm_net / "best.ckpt"),
        load_model("hf://zoo/net"),
        Identifier("hf://zoo/net"),
    )
    expected, found, exported = (
        np.array([[p for _, p in row.top] for row in model.predict(images, top_k=10)])
        for model in (local, loaded, identifier)
    )
    assert np.array_equal(found, expected)
    assert np.abs(exported - expected).max() < 1e-4
    assert loaded.calibration.unknown_threshold == local.calibration.unknown_threshold
    assert loaded.hparams["weights"] == "start.pth"
    gets = [call for call in hub.asked if call.startswith("GET /zoo/net/resolve")]
    assert gets == [
        f"GET /zoo/net/resolve/{revision}/{file}" for revision, file in (("main", "best.ckpt"), ("main", "model.onnx"))
    ]


def test_the_pushed_checkpoint_predicts_exports_and_does_not_resume(hub, own_net, own_folder, tiny_tree, capsys):
    push(own_net)
    (own_folder / "best.ckpt").write_bytes(hub.models["zoo/net"]["best.ckpt"])
    image = str(next(tiny_tree.rglob("*.jpg")))
    cpu = ["--trainer.accelerator", "cpu", "--data.num_workers", "0"]
    assert main(["predict", image, "--ckpt_path", "best.ckpt", "--output", "p.csv", *cpu]) == 0
    assert main(["test", "--ckpt_path", "best.ckpt", "--data.test_root", str(tiny_tree), *cpu]) == 0
    assert main(["export", "best.ckpt"]) == 0
    capsys.readouterr()
    assert main(["fit", "--ckpt_path", "best.ckpt", "--data.root", str(tiny_tree), *cpu]) == 2
    assert "is for predictions only: it has no optimizer state. Pass the last.ckpt" in capsys.readouterr().err


def test_classify_takes_a_model_of_the_hub(hub, own_net, tiny_tree):
    push(own_net)
    image = next(tiny_tree.rglob("*.jpg"))
    assert main(["classify", "hf://zoo/net", str(image), "--output", "c.csv"]) == 0
    expected = Identifier(own_onnx(hub)).predict(image)[0].label
    (row,) = csv.DictReader(io.StringIO(Path("c.csv").read_text(encoding="utf-8")))
    assert row["class"] == expected


def own_onnx(hub: type[Hub]) -> Path:
    """The uploaded ONNX file."""
    file = Path("own.onnx")
    file.write_bytes(hub.models["zoo/net"]["model.onnx"])
    return file


def test_a_revision_may_be_given(hub, own_net):
    push(own_net)
    assert Identifier("hf://zoo/net@v1").class_names == load_model("hf://zoo/net@v1").class_names
    with pytest.raises(UsageError, match=r"^file='hf://zoo/net@v2' has no revision 'v2'\. Choose a branch"):
        Identifier("hf://zoo/net@v2")


def test_without_a_network_the_cached_file_is_used(hub, own_net, monkeypatch):
    push(own_net)
    names = Identifier("hf://zoo/net").class_names
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert Identifier("hf://zoo/net").class_names == names
    with pytest.raises(UsageError, match=r"^ckpt_path='hf://zoo/net' cannot be reached \("):
        load_model("hf://zoo/net")


def test_a_repository_of_something_else_is_refused(hub):
    hub.models["zoo/bert"] = {"README.md": b"#"}
    with pytest.raises(
        UsageError, match=r"^file='hf://zoo/bert' has no such file .*written by 'python -m animals_pl push'"
    ):
        Identifier("hf://zoo/bert")
    with pytest.raises(UsageError, match=r"^ckpt_path='hf://zoo/none' does not exist, or is private"):
        load_model("hf://zoo/none")


def test_a_pickle_of_code_is_not_run(hub, own_folder):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (own_folder / "evil",))

    stream = io.BytesIO()
    torch.save({"hyper_parameters": {"class_names": []}, "x": Evil()}, stream)
    hub.models["zoo/evil"] = {"best.ckpt": stream.getvalue()}
    with pytest.raises(UsageError, match="is not a checkpoint"):
        load_model("hf://zoo/evil")
    assert not (own_folder / "evil").exists()


@pytest.mark.parametrize("text", ["hf://datasets/zoo/net", "hf://net", "hf://zoo/net@", "hf://zoo/net/model.onnx"])
def test_a_wrong_address_is_refused(text):
    for load in (Identifier, load_model):
        with pytest.raises(UsageError, match=r"is not an address of a model\. Pass hf://OWNER/NAME or"):
            load(text)


def test_a_missing_huggingface_hub_is_said_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        UsageError, match=r"^file='hf://zoo/net' needs huggingface_hub\. Run pip install huggingface_hub\.$"
    ):
        Identifier("hf://zoo/net")


# ---------------------------------------------------------------- public repositories


class Terminal(io.StringIO):
    """Someone who types an answer."""

    def isatty(self) -> bool:
        return True


def test_public_is_asked_and_comes_last(hub, own_net, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    push(own_net, "--public", "true")
    assert changes(hub) == [CREATE, COMMIT, SETTINGS]
    assert hub.private == set()
    assert "zoo/net becomes public: everyone can download the model and its card" in capsys.readouterr().out


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_without_a_yes_nothing_is_uploaded(hub, own_net, refused, answer, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    assert refused(own_net, "zoo/net", "--public") == (
        "public=true was not confirmed, so nothing was uploaded. Remove it for a private repository."
    )
    assert hub.asked == []


@pytest.mark.parametrize("stdin", [io.StringIO("y\n"), None])
def test_without_a_terminal_yes_must_be_an_option(hub, own_net, refused, stdin, monkeypatch):
    monkeypatch.setattr(sys, "stdin", stdin)
    assert "there is no terminal to ask whether zoo/net may be public. Pass --yes true" in refused(
        own_net, "zoo/net", "--public"
    )
    assert hub.asked == []
    push(own_net, "--public", "--yes")
    assert hub.private == set()


def test_an_existing_public_repository_needs_the_option(hub, own_net, refused):
    hub.models["zoo/net"] = {}
    assert "repo='zoo/net' is public. Pass --public true" in refused(own_net, "zoo/net")
    assert changes(hub) == []
    push(own_net, "--public", "--yes")
    assert hub.models["zoo/net"].keys() == ALWAYS


def test_an_upload_that_fails_leaves_the_repository_as_it_was(hub, own_net, refused):
    push(own_net)
    before = dict(hub.models["zoo/net"])
    for call, reason in (
        ("POST /api/models/zoo/net/commit", "was refused by"),
        ("PUT /lfs/", "could not be transferred completely"),
    ):
        hub.refusals = {call: (403, "")}
        assert f"repo='zoo/net' {reason}" in refused(own_net, "zoo/net", "--public", "--yes")
        assert hub.models["zoo/net"] == before
        assert hub.private == {"zoo/net"}


# ---------------------------------------------------------------- refusals


def test_another_programs_model_is_not_overwritten(hub, own_net, refused):
    hub.models["zoo/net"] = {"config.json": b"{}", "model.safetensors": b"bert"}
    hub.private.add("zoo/net")
    assert "repo='zoo/net' has another model (config.json, model.safetensors). Choose another" in refused(
        own_net, "zoo/net"
    )
    assert changes(hub) == []


@pytest.mark.parametrize(
    ("call", "status", "reason"),
    [
        ("GET /api/whoami-v2", 401, "Run 'hf auth login' or set HF_TOKEN, with a token that permits this"),
        ("GET /api/models/", 500, "Try again later"),
        ("POST /api/repos/create", 403, "Run 'hf auth login' or set HF_TOKEN, with a token that permits this"),
    ],
)
def test_what_the_hub_refuses_is_said_with_a_remedy(hub, own_net, refused, call, status, reason):
    hub.refusals = {call: (status, "")}
    message = refused(own_net, "zoo/net")
    assert message.startswith("repo='zoo/net' was refused by the hub (")
    assert reason in message
    assert hub.models == {}


def test_no_token_is_said_before_the_work(hub, own_net, refused, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("animals_pl.push.export", None)
    assert "Run 'hf auth login' or set HF_TOKEN" in refused(own_net, "zoo/net")


def test_no_network_is_said_with_a_remedy(own_net, refused, monkeypatch):
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert "repo='zoo/net' cannot be reached (" in refused(own_net, "zoo/net")


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["RUN", "net"], "repo='hf://net' is not an address of a model. Pass hf://OWNER/NAME"),
        (["RUN", "zoo/net@v1"], "names a revision, but the main branch is written. Pass zoo/net."),
        (["RUN", "zoo/a..b"], "repo='zoo/a..b' is not a valid name ("),
        (["nowhere", "zoo/net"], "run='nowhere' has no config.yaml. Pass the folder of a run"),
        (["RUN", "zoo/net", "--yes"], "yes=true has no effect without public=true. Remove it."),
        (["RUN"], "--repo is missing"),
    ],
    ids=["no owner", "revision", "name", "no run", "yes", "no name"],
)
def test_wrong_use_is_refused(hub, own_net, refused, args, reason):
    assert reason in refused(*[own_net if arg == "RUN" else arg for arg in args])
    assert hub.models == {}
