"""Choose the images on which an export is compared with its checkpoint."""

from __future__ import annotations

from pathlib import Path

from animals_pl.data.decode import decodes
from animals_pl.data.walk import find_images
from animals_pl.deploy.golden import drawings, spread
from animals_pl.errors import UsageError
from animals_pl.training.trained import TrainedModel

NUM_IMAGES = 16
"""Number of images to verify on."""


def verification_images(image_folder: str | Path | None, model: TrainedModel) -> tuple[list[bytes], str]:
    """Contents of image files to verify on, and where they come from.

    Args:
        image_folder: Folder of images. Default: the training data, or drawings if it no longer exists.
        model: The model to verify.

    Raises:
        UsageError: The folder has no image that can be decoded.
    """
    folder = image_folder or model.data_hparams.get("root")
    paths = find_images(Path(folder)) if folder and Path(folder).is_dir() else []
    contents = [path.read_bytes() for path in spread(paths, NUM_IMAGES) if decodes(path)]
    if image_folder and not contents:
        fault = f"has no image that can be decoded (first: {paths[0]})" if paths else "is not a folder with images"
        raise UsageError(f"image_folder={str(image_folder)!r} {fault}. Choose another, or remove the argument.")
    return (contents, f"images of {folder}") if contents else (drawings(NUM_IMAGES), "generated images")
