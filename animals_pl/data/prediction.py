"""Find and inspect the images to predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from animals_pl.data.catalog import Catalog
from animals_pl.data.decode import decodes
from animals_pl.data.inspection.manifest import inspect_all
from animals_pl.data.walk import find_images
from animals_pl.errors import UsageError, counted


@dataclass(frozen=True)
class PredictionImages:
    """Images to predict."""

    paths: list[str]
    """All files, in the order given. Folders are expanded and sorted."""
    broken: dict[str, str]
    """Path → problem of each file that cannot be decoded completely."""
    decodable: list[str]
    """The paths that can be decoded at least in part."""

    def catalog(self, class_names: list[str]) -> Catalog:
        """Catalog of the decodable images, labelled -1."""
        labels = np.full(len(self.decodable), -1, dtype=np.int64)
        return Catalog(Path(), class_names, self.decodable, labels)


def find_prediction_images(given: Sequence[Path]) -> PredictionImages:
    """Expand folders to their image files, and inspect each file. Files given by name may have any suffix.

    Raises:
        UsageError: A path is neither a file nor a folder, there are no images, or none can be decoded.
    """
    remedy = "Pass images or folders of images: 'python -m animals_pl predict PATH … --ckpt_path FILE'."
    for path in given:
        if not path.exists():
            raise UsageError(f"{str(path)!r} does not exist. {remedy}")
        if not (path.is_file() or path.is_dir()):
            raise UsageError(f"{str(path)!r} is neither a regular file nor a folder. {remedy}")
    files = [image for path in given for image in (find_images(path) if path.is_dir() else [path])]
    if not files:
        where = f" in {', '.join(map(str, given))}" if given else ""
        raise UsageError(f"there are no images to predict{where}. {remedy}")
    paths = [str(file) for file in files]
    problems = [facts.problem for facts in inspect_all(files)]
    broken = {path: problem for path, problem in zip(paths, problems, strict=True) if problem}
    decodable = [path for path in paths if path not in broken or decodes(path)]
    if not decodable:
        raise UsageError(
            f"0 of {counted(len(paths), 'image')} can be decoded (first: {paths[0]}: {problems[0]}). {remedy}"
        )
    return PredictionImages(paths, broken, decodable)
