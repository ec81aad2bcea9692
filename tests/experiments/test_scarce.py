"""Studies of scarce classes: what is drawn, what is refused, and a study on small images."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats
from sklearn.metrics import recall_score

from animals_pl.cli import main
from animals_pl.data.catalog import Catalog
from animals_pl.data.grouping import single_groups
from animals_pl.errors import UsageError
from animals_pl.experiments import scarce_fits
from animals_pl.experiments.scarce import MIN_TEST, Draw, ScarcePlan, common_classes, draw, hidden_names, recalls
from animals_pl.experiments.scarce_table import paired_difference
from animals_pl.experiments.study import read_study
from animals_pl.models.synsets import SYNSETS, imagenet_indices
from animals_pl.training import head
from animals_pl.training.head import train_head
from animals_pl.training.pseudo_labels import label_images

COUNTS = {"a": 400, "b": 260, "c": 250, "d": 249, "e": 30}
PLAN = ScarcePlan(classes=2, keep=(10, 25), replicates=3)


@pytest.fixture
def catalog() -> Catalog:
    """Classes of which three are common; the first six images of each class are a group."""
    labels = np.repeat(np.arange(len(COUNTS)), list(COUNTS.values()))
    first = np.searchsorted(labels, np.arange(len(COUNTS)))
    groups = np.full(len(labels), -1)
    for number, start in enumerate(first):
        groups[start : start + 6] = number
    groups[first[1] + 10] = groups[first[0] + 10] = 9  # the same picture in two classes
    return Catalog(Path(), list(COUNTS), [f"{index}.jpg" for index in range(len(labels))], labels, groups=groups)


def test_only_classes_with_enough_images_are_cut(catalog):
    assert common_classes(catalog, PLAN).tolist() == [0, 1, 2]
    assert common_classes(catalog, ScarcePlan(2, (10, 210), 3)).tolist() == [0, 1]
    with pytest.raises(UsageError, match=r"scarce\.classes=3 exceeds .* 260 images .*: 2\. Lower"):
        common_classes(catalog, ScarcePlan(3, (210,), 3))


@pytest.mark.parametrize("replicate", range(5))
def test_cut_classes_keep_a_few_images_and_groups_stay_together(catalog, replicate):
    drawn = draw(catalog, PLAN, 10, replicate, seed=0)
    trained, tested = (np.bincount(catalog.labels[indices], minlength=5) for indices in (drawn.train, drawn.test))
    assert len(drawn.cut) == 2
    for label, count in enumerate(COUNTS.values()):
        if label in drawn.cut:
            assert 10 <= trained[label] <= 10 + 6
            assert tested[label] >= count - 10 - 7  # the picture in two classes may be left out
        elif label < 3:
            assert trained[label] == pytest.approx(0.8 * count, abs=7)
            assert tested[label] >= MIN_TEST - 7
        else:
            assert (trained[label], tested[label]) == (count, 0)
    assert not set(drawn.train) & set(drawn.test)
    groups = [set(catalog.groups[indices]) - {-1} for indices in (drawn.train, drawn.test)]
    assert not groups[0] & groups[1]


def test_unlabelled_images_are_taken_from_tested_cut_classes_and_from_training(catalog):
    plan = replace(PLAN, unlabelled=0.5)
    groups, labels = single_groups(catalog.groups), catalog.labels
    for replicate in range(5):
        before, drawn = (draw(catalog, each, 10, replicate, seed=1) for each in (PLAN, plan))
        parts = [drawn.train, drawn.test, drawn.unlabelled]
        assert sorted(np.concatenate(parts)) == sorted(np.concatenate([before.train, before.test]))
        for one, other in itertools.combinations(parts, 2):
            assert not set(groups[one]) & set(groups[other])
        is_cut = np.isin(labels[drawn.unlabelled], drawn.cut)
        assert set(drawn.unlabelled[is_cut]) <= set(before.test)
        assert set(drawn.unlabelled[~is_cut]) <= set(before.train)
        assert not (labels[drawn.unlabelled] == 4).any()  # not a common class
        possible = np.isin(labels[before.test], drawn.cut).sum() + np.isin(labels[before.train], [0, 1, 2]).sum()
        assert abs(len(drawn.unlabelled) / (possible - 10 * 2) - 0.5) < 0.08


def test_draws_are_nested_reproducible_and_vary(catalog):
    few, more = (draw(catalog, PLAN, keep, 0, seed=0) for keep in PLAN.keep)
    assert set(few.train) < set(more.train)
    assert few.cut.tolist() == more.cut.tolist()
    np.testing.assert_array_equal(draw(catalog, PLAN, 10, 0, seed=0).train, few.train)
    assert len({tuple(draw(catalog, PLAN, 10, replicate, seed=0).train) for replicate in range(10)}) == 10
    assert len({tuple(draw(catalog, PLAN, 10, replicate, seed=0).cut) for replicate in range(10)}) == 3


def test_recalls_are_those_of_scikit_learn(catalog):
    drawn = draw(catalog, PLAN, 10, 0, seed=0)
    labels = catalog.labels[drawn.test]
    predicted = np.random.default_rng(0).integers(0, 5, len(labels))
    tested = np.unique(labels)
    every, cut, common = (
        recall_score(labels, predicted, labels=classes, average="macro", zero_division=0)
        for classes in (tested, drawn.cut, np.setdiff1d(tested, drawn.cut))
    )
    assert recalls(labels, predicted, drawn) == pytest.approx((every, cut, common))


def test_the_interval_is_that_of_a_paired_t_test():
    first, second = np.random.default_rng(0).random((2, 8, 3))
    expected = stats.ttest_rel(first.mean(1), second.mean(1)).confidence_interval(0.95)
    mean, low, high = paired_difference(first, second)
    assert (low, high) == pytest.approx(tuple(expected))
    assert mean == pytest.approx((first - second).mean())


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("{}", "has the keys"),
        ("{classes: 3, keep: [10]}", "has the keys"),
        ("{classes: 3, keep: [10], replicates: 2, folds: 3}", "has the keys"),
        ("{classes: 0, keep: [10], replicates: 2}", r"scarce\.classes=0 is not a whole number >= 1"),
        ("{classes: 3, keep: [10, 2.5], replicates: 2}", r"scarce\.keep=\[10, 2\.5\] is not"),
        ("{classes: 3, keep: [], replicates: 2}", r"scarce\.keep=\[\] is not"),
        ("{classes: 3, keep: [10], replicates: true}", r"scarce\.replicates=True is not"),
        ("{classes: 3, keep: [10], replicates: 2, hide_imagenet: 1}", r"scarce\.hide_imagenet=1 is not true or false"),
        (
            "{classes: 3, keep: [10], replicates: 2, unlabelled: 1}",
            r"scarce\.unlabelled=1 is not a number >= 0",
        ),
        ("{classes: 3, keep: [10], replicates: 2, unlabelled: half}", r"scarce\.unlabelled='half' is not a number"),
        ("{classes: 3, hide_imagenet: true, replicates: 2}", "has the keys"),
        ("{classes: 3, keep: [10], replicates: 1}", r"scarce\.replicates=1 is not a whole number >= 2"),
        ("3", "scarce must map names to values"),
    ],
)
def test_a_malformed_section_is_refused(write_study, section, words):
    with pytest.raises(UsageError, match=words):
        read_study(write_study(f"config: lenet\nscarce: {section}\nvariants: {{a: }}"))


def test_a_single_number_of_images_is_accepted(write_study):
    study = read_study(write_study("config: lenet\nscarce: {classes: 1, keep: 5, replicates: 2}\nvariants: {a: }"))
    assert study.scarce == ScarcePlan(1, (5,), 2)


def test_a_cut_class_has_the_name_of_one_of_its_imagenet_classes():
    names = ["dog", "horse", "unicorn", "cat"]
    none = np.array([])
    drawn = Draw(none, none, np.array([0, 1, 2]), none)
    drawn_names = [hidden_names(names, drawn, replicate, seed=0) for replicate in range(20)]
    assert {imagenet_indices(name)[0] for name, *_ in drawn_names} <= set(SYNSETS["dog"])
    assert len({name for name, *_ in drawn_names}) > 10
    assert {tuple(rest) for _, *rest in drawn_names} == {("sorrel", "unicorn", "cat")}
    assert hidden_names(names, drawn, 3, seed=0) == drawn_names[3]


# ---------------------------------------------------------------- a study on small images

STUDY = (
    "config: mobilenetv3_small_best\n"
    "options: {model.net: test_resnet, model.weights: null, model.head_init: null, model.head_decay: 0.0,"
    " model.imagenet_prior: 0.0, data.size: 32, data.num_workers: 0,"
    " model.lr: 0.005, trainer.max_epochs: 6}\n"
    "scarce: {classes: 1, keep: [5, 10], replicates: 2}\n"
    "variants:\n  as it is: {}\n  untrained: {model.lr: 0.0, model.tta: none}\n"
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two common classes and a scarce one."""
    from image_trees import write_tree

    return write_tree(tmp_path_factory.mktemp("common") / "images", {"cat": 62, "dog": 64, "cow": 8})


@pytest.fixture
def compare(write_study, tree, tmp_path, capsys, monkeypatch):
    """Return a function that runs a study on these images and returns the exit code and what was printed."""
    monkeypatch.setattr("animals_pl.experiments.scarce.TEST_FRACTION", 0.9)  # 50 of 62 images
    monkeypatch.setenv("COLUMNS", "80")  # the table is complete, however narrow the terminal

    def run(content: str, *args: str) -> tuple[int, str, str]:
        arguments = ["--root", str(tree), "--output", str(tmp_path / "out"), "--markdown", *args]
        code = main(["cross-validate", str(write_study(content)), *arguments])
        return code, *capsys.readouterr()

    return run


def rows(text: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in cells}


def test_a_study_scores_images_and_shifted_copies(compare, tmp_path):
    code, printed, _ = compare(STUDY)
    assert code == 0
    table = rows(printed)
    kept = np.load(tmp_path / "out" / "tiny-test_resnet-scarce-0" / "as it is.npz")["scores"]
    assert kept.shape == (2, 2, 2, 3)
    assert not np.array_equal(kept[:, :, 0], kept[:, :, 1])
    means = [f"{value:.4f}" for value in kept.mean((0, 1)).ravel()]
    assert [*table["as it is"][:3], *table["as it is"][5:8]] == means
    assert table["as it is"][3] == ""
    assert float(table["as it is"][0]) > 0.6  # the classes have colours of their own
    assert float(table["untrained"][3]) < 0


def test_results_are_kept_until_their_settings_change(compare, monkeypatch):
    compare(STUDY)
    fits: list[str] = []
    fit = scarce_fits._fit_draws

    def count(settings, variant, data):
        fits.append(variant)
        return fit(settings, variant, data)

    monkeypatch.setattr(scarce_fits, "_fit_draws", count)
    compare(STUDY)
    assert not fits
    compare(STUDY.replace("{model.lr: 0.0,", "{model.lr: 0.1,"))
    assert fits == ["untrained"]
    compare(STUDY.replace("keep: [5, 10]", "keep: [5]"))
    assert fits == ["untrained", "as it is", "untrained"]


def test_heads_start_from_one_imagenet_class_of_a_cut_class(compare, weights, monkeypatch):
    """Of 118 breeds of dogs and five of cats, in the draws that cut them; the cow is not cut."""
    heads, priors = [], []

    def look(model, *_, **__):
        heads.append((model.net.head[-1].weight.detach().clone(), model.net.head[-1].bias.detach().clone()))
        assert torch.equal(model.net.initial, heads[-1][0])
        priors.append(model.net.prior.indices)

    monkeypatch.setattr(scarce_fits, "train_head", look)
    study = STUDY.replace("model.weights: null, model.head_init: null", f"model.weights: {weights}")
    study = study.replace("{model.lr: 0.0, model.tta: none}", "{model.head_decay: 0.1, model.imagenet_prior: 0.5}")
    study = study.replace("replicates: 2", "replicates: 8, hide_imagenet: true").replace("  as it is: {}\n", "")
    code, _, error = compare(study)
    assert code == 0, error
    state = load_file(weights)
    names = ["cat", "cow", "dog"]
    lengths = set()
    for (weight, bias), indices in zip(heads, priors, strict=True):
        rows = {name: [index for index in indices if index in SYNSETS[name]] for name in names}
        for label, name in enumerate(names):
            torch.testing.assert_close(weight[label], state["fc.weight"][rows[name]].mean(0))
            torch.testing.assert_close(bias[label], state["fc.bias"][rows[name]].mean())
        lengths.add(tuple(map(len, rows.values())))
    assert lengths == {(1, 1, 118), (5, 1, 1)}
    assert len(heads) == 16
    assert priors[::2] == priors[1::2]  # the same for both numbers of images


def test_heads_that_do_not_start_from_imagenet_are_the_same_with_hidden_classes(compare, weights):
    study = STUDY.replace("model.weights: null, model.head_init: null", f"model.weights: {weights}")
    study = study.replace("as it is: {}", "as it is: {model.head_init: random}")
    plain = rows(compare(study)[1])
    hidden = rows(compare(study.replace("replicates: 2", "replicates: 2, hide_imagenet: true"))[1])
    assert plain["as it is"][:8] == hidden["as it is"][:8]


def test_a_validation_part_chooses_the_epoch_of_a_refit(compare, monkeypatch):
    """The third of six epochs has the lowest loss."""
    trained: list[tuple[int, int]] = []
    losses = itertools.cycle(torch.tensor([5.0, 3.0, 2.0, 4.0, 4.0, 4.0]))

    def record(model, features, labels, *, epochs, stop_after=None, **options):
        trained.append((len(labels), stop_after or epochs))
        train_head(model, features, labels, epochs=epochs, stop_after=stop_after, **options)

    for module in (head, scarce_fits):
        monkeypatch.setattr(module, "train_head", record)
    monkeypatch.setattr(head.F, "cross_entropy", lambda *args: next(losses))
    study = STUDY.replace("as it is: {}", "as it is: {refit: false}").replace("keep: [5, 10]", "keep: [10]")
    study = study.replace("untrained: {", "untrained: {refit: true, data.val_fraction: 0.3, ")
    assert compare(study)[0] == 0
    chosen, refitted = trained[:2], trained[2:]
    assert [epochs for _, epochs in chosen] == [6, 6]
    assert [epochs for _, epochs in refitted] == [6, 3, 6, 3]
    for (few, _), (part, _), (every, _) in zip(chosen, refitted[::2], refitted[1::2], strict=True):
        assert few == pytest.approx(0.9 * every, abs=2)
        assert part == pytest.approx(0.7 * every, abs=2)


def test_unlabelled_images_are_added_to_the_training_images(compare, monkeypatch):
    given: list[tuple[int, int]] = []
    trained: list[np.ndarray] = []

    def label(model, features, val_features, val_labels):
        found = label_images(model, features, val_features, val_labels)
        given.append((len(features), (found.labels >= 0).sum()))
        assert model.calibration.train_counts.tolist() == np.bincount(trained[-1], minlength=3).tolist()
        return found

    def train(model, features, labels, *args, **options):
        trained.append(labels)
        return head.train_best_head(model, features, labels, *args, **options)

    monkeypatch.setattr(scarce_fits, "label_images", label)
    monkeypatch.setattr(scarce_fits, "train_best_head", train)
    monkeypatch.setattr("animals_pl.experiments.scarce.MIN_TEST", 15)
    study = STUDY.replace("as it is: {}", "as it is: {unlabelled: false}").replace("keep: [5, 10]", "keep: [10]")
    study = study.replace("model.lr: 0.0, model.tta: none", "unlabelled: true").replace(
        "}\nvar", ", unlabelled: 0.5}\nvar"
    )
    assert compare(study)[0] == 0
    assert len(given) == 2
    assert len(trained) == 2 + 2 * 2  # the second variant trains twice
    assert [len(labels) for labels in trained[:2]] == [len(labels) for labels in trained[2::2]]
    for (images, labelled), first, second in zip(given, trained[2::2], trained[3::2], strict=True):
        assert images > 20
        assert len(second) == len(first) + labelled
        assert second[: len(first)].tolist() == first.tolist()
    assert sum(labelled for _, labelled in given) > 20


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("{data.unlabelled: DIR}", "which draws unlabelled images itself"),
        ("{unlabelled: true}", "unlabelled=true needs scarce.unlabelled > 0"),
        ("{unlabelled: half}", "unlabelled='half' is not true or false"),
        ("{refit: 1}", "refit=1 is not true or false"),
        ("{model.freeze: false}", "trains heads on cached features"),
        ("{data.augment: light}", "trains heads on cached features"),
        ("{model.mixup: 0.2}", "trains heads on cached features"),
        ("{trainer.callbacks: GradualUnfreezing}", "trainer.callbacks cannot be set in a study with scarce"),
        ("{model.nets: a}", "model.nets cannot be set in a study with scarce. Did you mean 'model.net'?"),
        ("{model.net: lenet}", "only applies to timm models"),
    ],
)
def test_settings_that_a_head_on_features_does_not_have_are_refused(compare, settings, words):
    code, _, error = compare(STUDY.replace("{model.lr: 0.0, model.tta: none}", settings), "--only", "[untrained]")
    assert code == 2
    assert words in error


def test_folds_have_no_effect(compare):
    code, _, error = compare(STUDY, "--folds", "3")
    assert code == 2
    assert "folds=3 has no effect: tiny has the key scarce" in error
