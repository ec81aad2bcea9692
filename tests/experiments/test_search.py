"""scripts/search.py: tiny searches of real trainings, resuming, the YAML that comes out, and wrong use."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.metrics import balanced_accuracy_score

pytest.importorskip("optuna")
from animals_pl.cli import main as animals_pl
from animals_pl.errors import UsageError
from animals_pl.experiments import search

PROJECT = Path(__file__).parents[1]
OPTIONS = "options: {data.size: 16, data.batch_size: 16, data.num_workers: 0, trainer.accelerator: cpu}\n"
TEXT = (
    "config: configs/lenet.yaml\n" + OPTIONS + "search:\n"
    "  model.lr: {low: 1e-4, high: 1.0e-1, log: true}\n"
    "  model.weight_decay: {low: 0.0, high: 0.6, step: 0.1}\n"
    "  model.loss: [cross_entropy, focal]\n"
    "  trainer.max_epochs: {low: 1, high: 2}\n"
)


def arguments(folder: Path, root: Path, trials: int, text: str = TEXT) -> list[str]:
    file = folder / "tiny.yaml"
    file.write_text(text)
    common = ["--folds", "2", "--output", str(folder / "out")]
    return [str(file), "--root", str(root), "--trials", str(trials), *common]


def done(text: str) -> list[str]:
    return re.findall(r"^trial \d+ of \d+: .*$", text, re.MULTILINE)


@pytest.fixture(scope="module")
def searched(tmp_path_factory, tiny_tree):
    """A search of three trials, and where it is."""
    folder = tmp_path_factory.mktemp("searched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANIMALS_PL_CACHE", str(folder / "cache"))
        assert search.main(arguments(folder, tiny_tree, 3)) == 0
    return folder


def opened(folder: Path, root: Path) -> search.Search:
    return search.Search(search.parse(arguments(folder, root, 3)))


def test_a_trial_is_worth_the_pooled_macro_recall_of_its_settings(searched, tiny_tree):
    found = opened(searched, tiny_tree)
    trials = found.trials()
    assert len(trials) == 3
    for trial in trials:
        settings = found.settings(trial.params)
        outcome = search.cv.collect(found.variant(settings), found.setup.folder, found.setup.fold_of)
        assert trial.value == pytest.approx(balanced_accuracy_score(found.setup.catalog.labels, outcome.predicted))
        assert type(settings["trainer.max_epochs"]) is int
        assert settings["model.weight_decay"] in {0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6}
        assert float(f"{settings['model.lr']:.4g}") == settings["model.lr"]
    assert trials[0].params["model.lr"] == 0.001  # of the configuration; its 15 epochs lie outside
    (run,) = (found.setup.folder / "runs").glob(f"**/{found.variant(found.settings(trials[1].params))}/version_0")
    trained = yaml.safe_load((run / "config.yaml").read_text())
    assert trained["model"]["lr"] == found.settings(trials[1].params)["model.lr"]
    assert trained["trainer"]["max_epochs"] == trials[1].params["trainer.max_epochs"]


def test_the_best_is_a_configuration_that_runs_and_keeps_what_was_written(searched, tiny_tree, tmp_path):
    found = opened(searched, tiny_tree)
    text = (found.setup.folder / "best.yaml").read_text()
    original = (PROJECT / "configs" / "lenet.yaml").read_text()
    best = max(found.trials(), key=lambda trial: (trial.value, -trial.number))
    content = search.flat(yaml.safe_load(text))
    own = {**found.settings(best.params), **found.recipe.options, "name": "lenet_tuned", "data.root": str(tiny_tree)}
    assert content == {**search.flat(yaml.safe_load(original)), **own}
    for line in original.splitlines():
        comment = line.partition("#")[2]
        kept = [new for new in text.splitlines() if new.partition("#")[2] == comment]
        assert kept, line
        if len(line.partition("#")[0].split()) == 2 and "root" not in line:  # at its old column
            assert any(new.find("#") == line.find("#") for new in kept), line
    assert not list(found.setup.folder.glob("*.part"))
    args = ["fit", "--config", str(found.setup.folder / "best.yaml"), "--trainer.fast_dev_run", "true"]
    assert animals_pl([*args, "--trainer.default_root_dir", str(tmp_path)]) == 0


def test_what_confirms_the_best_is_a_study(searched, tiny_tree):
    found = opened(searched, tiny_tree)
    study = search.cv.read_study(found.setup.folder / "confirm-tiny.yaml")
    assert study.config == PROJECT / "configs" / "lenet.yaml"
    start, tuned = study.variants.values()
    assert start == {}
    assert tuned == found.settings(max(found.trials(), key=lambda trial: (trial.value, -trial.number)).params)


def test_a_search_goes_on_where_it_was_left(tmp_path, tiny_tree, capsys, monkeypatch):
    text = TEXT.replace("low: 1, high: 2", "low: 1, high: 1")
    fit, fits = search.cv.fit, []

    def interrupted(study, variant, folder, split, root):
        if len(fits) == 3:
            raise SystemExit(1)  # what Lightning makes of Ctrl-C
        fits.append((variant, split.stem))
        fit(study, variant, folder, split, root)

    with monkeypatch.context() as patch:
        patch.setattr(search.cv, "fit", interrupted)
        assert search.main(arguments(tmp_path, tiny_tree, 3, text)) == 130
    printed = capsys.readouterr()
    assert len(done(printed.err)) == 1
    assert "interrupted" in printed.err
    assert "optimistic" in printed.out
    cut_off = fits[-1][0]
    (folder,) = (tmp_path / "out").iterdir()
    (kept,) = folder.glob(f"{cut_off}-*.npz")
    written = kept.stat().st_mtime_ns

    assert search.main(arguments(tmp_path, tiny_tree, 3, text)) == 0
    assert len(done(capsys.readouterr().err)) == 2
    assert (folder / f"{cut_off}-fold1.npz").exists()
    assert kept.stat().st_mtime_ns == written  # its first fold is not done again
    assert search.main(arguments(tmp_path, tiny_tree, 5, text)) == 0
    printed = capsys.readouterr()
    assert [line[:12] for line in done(printed.err)] == ["trial 4 of 5", "trial 5 of 5"]
    assert "best of 5 trials" in printed.out
    options = [re.sub(r"^.*?  ", "", line) for line in done(printed.err)]
    assert len(set(options)) == 2  # the sampler does not begin again with what it drew before
    assert search.main(arguments(tmp_path, tiny_tree, 5, text)) == 0
    assert not done(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("space", "value", "member"),
    [
        ({"low": 1, "high": 9}, 9, True),
        ({"low": 1, "high": 9}, 2.5, False),
        ({"low": 1, "high": 9, "step": 4}, 5, True),
        ({"low": 1, "high": 9, "step": 4}, 4, False),
        ({"low": 0.0, "high": 0.6, "step": 0.1}, 0.3, True),
        ({"low": 0.0, "high": 0.6, "step": 0.1}, 0.25, False),
        ({"low": "1e-4", "high": 0.1, "log": True}, "1e-3", True),
        ({"low": 1e-4, "high": 0.1, "log": True}, 0.2, False),
        ({"low": 0.0, "high": 1.0}, None, False),
        ({"low": 0.0, "high": 1.0}, "adam", False),
        (["adam", None, 3], None, True),
        (["adam", None, 3], "sgd", False),
    ],
)
def test_spaces_know_their_values(space, value, member):
    distribution = search.read_space("model.x", space)
    assert search.inside(value, distribution) == member
    whole = isinstance(space, dict) and isinstance(space["low"], int)
    assert isinstance(distribution, search.IntDistribution) == whole


@pytest.mark.parametrize(
    "space",
    [
        *(3, None, "adam", [], [[1]], {}, {"low": 1}, {"low": 2, "high": 1}, {"low": 0, "high": True}),
        *({"low": 0.0, "high": 1.0, "log": True}, {"low": "a", "high": 1}, {"low": 1, "high": 2, "lob": True}),
    ],
    ids=str,
)
def test_a_malformed_space_is_explained(space):
    with pytest.raises(UsageError, match=r"model\.x=.* is no space \(.*\); write"):
        search.read_space("model.x", space)


def test_editing_adds_what_is_absent_and_refuses_what_it_would_spoil():
    text = "# head\nname: a   # called\n\nmodel:  # the net\n  lr: 0.1     # rate\n  empty:  # nothing\n"
    text += "\ndata:\n  size: 3\n"
    edited = search.edit(text, {"model.lr": 1e-5, "model.new": "yes", "model.empty": True, "trainer.x": 1, "seed": 2})
    assert edited == (
        "# head\nname: a   # called\n\nmodel:  # the net\n  lr: 1.0e-05 # rate\n  empty: true # nothing\n"
        "  new: 'yes'\n\ndata:\n  size: 3\n\ntrainer:\n  x: 1\nseed: 2\n"
    )
    for spoilt in ("model: {lr: 1}\n", "model:\n    lr: 1\n    size: 2\n", "model:\n  lr:\n    - 1\n"):
        with pytest.raises(UsageError, match="cannot be edited line by line"):
            search.edit(spoilt, {"model.lr": 2})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read (FileNotFoundError"),
        ("nonsense: [", "cannot be read"),
        ("config: configs/lenet.yaml", "cannot be read"),
        ("config: configs/absent.yaml\nsearch: {model.lr: [1]}", "absent.yaml"),
        ("config: configs/lenet.yaml\nsearch: {}", "searches nothing"),
        ("config: configs/lenet.yaml\nsearch: {model.lr: {low: 3}}", "model.lr={'low': 3} is no space"),
        ("config: configs/lenet.yaml\nsearch: {trainer.a.b: [1]}", "'trainer.a.b' is no key"),
        ("config: configs/lenet.yaml\noptions: {model.lr: 1}\nsearch: {model.lr: [1]}", "in options and in search"),
        ("config: configs/lenet.yaml\n" + OPTIONS + "search: {model.lrs: [1, 2]}", "unknown key 'model.lrs'"),
    ],
    ids=["absent", "no YAML", "no search", "no configuration", "empty", "no space", "nested", "twice", "unknown key"],
)
def test_wrong_use_ends_with_one_sentence(tmp_path, tiny_tree, capsys, text, words):
    args = arguments(tmp_path, tiny_tree, 1, text or "")
    if text is None:
        (tmp_path / "tiny.yaml").unlink()
    assert search.main(args) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("search: error: ")
    assert words in line


def test_folds_that_cannot_be_are_explained(tmp_path, tiny_tree, capsys):
    assert search.main([*arguments(tmp_path, tiny_tree, 1), "--folds", "1"]) == 2
    assert "choose another --folds" in capsys.readouterr().err


def test_without_optuna_the_script_says_how_to_install_it(tmp_path, tiny_tree, capsys, monkeypatch):
    monkeypatch.delattr(search, "optuna")
    assert search.main(arguments(tmp_path, tiny_tree, 1)) == 2
    assert "pip install -e '.[search]'" in capsys.readouterr().err


def test_a_failing_or_poor_trial_is_given_up_and_the_search_goes_on(tmp_path, tiny_tree, capsys, monkeypatch):
    def pretend(study, variant, setup, fold):
        settings = study.variants[variant]
        if settings["model.loss"] == "focal" and fold == 0 and list(setup.folder.glob("*.npz")):
            raise UsageError("as if it had diverged")
        labels = setup.catalog.labels
        right = settings["model.weight_decay"] < 0.35
        logits = np.eye(10)[labels[setup.fold_of == fold] if right else 0 * labels[setup.fold_of == fold]]
        np.savez(setup.folder / f"{variant}-fold{fold}.npz", logits=logits, seconds=1)

    monkeypatch.setattr(search.cv, "fit_fold", pretend)
    assert search.main(arguments(tmp_path, tiny_tree, 20)) == 0
    lines = done(capsys.readouterr().err)
    assert len(lines) == 20
    assert any("failed: as if it had diverged" in line for line in lines)
    assert any("given up after fold 1" in line for line in lines)


@pytest.mark.parametrize("file", sorted((PROJECT / "scripts" / "searches").glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_searches_hold_their_starting_configuration(file):
    _, config, spaces = search.read_search(file)
    assert all(search.inside(config[key], space) for key, space in spaces.items())
