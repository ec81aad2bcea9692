"""The examples in docstrings are right, and everything in the public API has one."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from collections.abc import Iterator

import pytest
from image_trees import write_tree

import animals_pl
from animals_pl import AnimalClassifier, AnimalsDataModule, fit

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples() -> list[doctest.DocTest]:
    """Every docstring with an example."""
    found: dict[str, doctest.DocTest] = {}
    for module in pkgutil.walk_packages(animals_pl.__path__, "animals_pl."):
        if not module.name.endswith("__main__"):
            for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module.name)):
                if test.examples:
                    found[test.name] = test
    return list(found.values())


EXAMPLES = examples()


@pytest.fixture(scope="module", autouse=True)
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder with the images and the checkpoint that the examples name."""
    folder = tmp_path_factory.mktemp("workspace")
    write_tree(folder / "MY_IMAGES", {"cat": 20, "dog": 20, "elephant": 10})
    write_tree(folder / "OTHER_IMAGES", {"cat": 3, "dog": 3}, seed=1)
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes((folder / "MY_IMAGES/cat/cat_0.jpg").read_bytes())
    (folder / "broken.jpg").write_text("not an image")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fit(AnimalClassifier("shallownet"), AnimalsDataModule("MY_IMAGES", size=32), name="my_animals", max_epochs=1)
        yield


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_prints_what_it_says(example):
    printed: list[str] = []
    result = doctest.DocTestRunner(optionflags=FLAGS).run(example, out=printed.append, clear_globs=False)
    assert result.failed == 0, "".join(printed)


def test_every_public_name_has_an_example():
    names = {example.name.rpartition(".")[2] for example in EXAMPLES}
    assert set(animals_pl.__all__) - names == set()
