"""Random augmentation (albumentations), seeded per sample."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from animals_pl.data.resize import Resize
from animals_pl.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    import albumentations as A


class Augmentation:
    """Random augmentation, followed by a resize to the requested size.

    Args:
        policy: ``none``, a name in :data:`~animals_pl.data.policies.POLICIES`, or a YAML or JSON file written by
            ``albumentations.save``.
        resize: Applied after the policy if the image does not have the requested size yet.

    Raises:
        UsageError: The policy is unknown, or its file cannot be read.
    """

    def __init__(self, policy: str, resize: Resize) -> None:
        self.policy = policy
        self.resize = resize
        self.pipelines: dict[int, A.Compose] = {}
        self.file = Path(policy) if Path(policy).suffix in {".yaml", ".yml", ".json"} else None
        if policy == "none":
            return
        from animals_pl.data.policies import POLICIES, load_pipeline  # imports albumentations

        if self.file is not None:
            self.loaded = load_pipeline(self.file)
        elif policy not in (known := ["none", *POLICIES]):
            raise UsageError(
                f"data.augment={policy!r} is unknown. {did_you_mean(policy, known)}Choose one of {', '.join(known)}, "
                "or a .yaml or .json file saved by albumentations."
            )

    def __call__(self, image: np.ndarray, size: int, seed: np.random.SeedSequence) -> np.ndarray:
        """Augment an image (H, W, 3) uint8 to (size, size, 3) uint8. The seed determines the result."""
        if self.policy != "none":
            pipeline = self.pipeline(size)
            pipeline.set_random_seed(int(seed.generate_state(1)[0]))
            image = pipeline(image=image)["image"]
            if image.dtype != np.uint8 or image.shape[2:] != (3,):
                raise UsageError(
                    f"data.augment={self.policy!r} turns images into {image.dtype} arrays of shape {image.shape}. "
                    "Remove steps such as Normalize and ToTensorV2; the net normalises."
                )
        return image if image.shape[:2] == (size, size) else self.resize(image, size)

    def pipeline(self, size: int) -> A.Compose:
        """The policy's pipeline for one size. A pipeline from a file is used for every size."""
        if self.file is not None:
            return self.loaded
        if size not in self.pipelines:
            from animals_pl.data.policies import named_pipeline

            self.pipelines[size] = named_pipeline(self.policy, size)
        return self.pipelines[size]
