"""Map animal names to ImageNet-1k classes."""

from __future__ import annotations

from functools import cache

IMAGENET_CLASSES = 1000
ANIMALS = 398
"""The first 398 classes are the animals. Others are not searched: "crane" is also a machine."""

SYNSETS: dict[str, range | list[int]] = {
    "dog": range(151, 269),  # Chihuahua … Mexican hairless
    "cat": range(281, 286),  # tabby, tiger cat, Persian, Siamese, Egyptian
    "elephant": [101, 385, 386],  # tusker, Indian, African
    "horse": [339],  # sorrel
    "cow": [345],  # ox
    "sheep": [348, 349],  # ram, bighorn
    "chicken": [7, 8],  # cock, hen
    "spider": range(72, 78),  # black and gold garden, barn, garden, black widow, tarantula, wolf
    "butterfly": range(321, 327),  # admiral, ringlet, monarch, cabbage, sulphur, lycaenid
    "squirrel": [335],  # fox squirrel
}
"""English name → ImageNet-1k class indices: its hyponyms in WordNet. Source: Russakovsky et al. 2015."""


def imagenet_indices(name: str) -> list[int]:
    """Return the ImageNet-1k class indices of an animal; empty if ImageNet does not have it.

    ``name`` is English: a key of :data:`SYNSETS`, or one of ImageNet's own names ("zebra", "red_panda").
    """
    if name.lower() in SYNSETS:
        return list(SYNSETS[name.lower()])
    wanted = name.lower().replace("_", " ").replace("-", " ")
    return [index for index, lemmas in enumerate(_animal_lemmas()) if wanted in lemmas]


def imagenet_name(index: int) -> str:
    """Return the name of an ImageNet animal class that matches the fewest classes in :func:`imagenet_indices`."""
    return min(_animal_lemmas()[index], key=lambda lemma: len(imagenet_indices(lemma)))


@cache
def _animal_lemmas() -> list[list[str]]:
    """Lower-case names of each ImageNet animal class."""
    from timm.data import ImageNetInfo  # imports torch

    info = ImageNetInfo("imagenet-1k")
    return [info.index_to_description(index).lower().replace("-", " ").split(", ") for index in range(ANIMALS)]
