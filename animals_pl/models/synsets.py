"""Which of ImageNet's 1,000 classes are which animal."""

from __future__ import annotations

from functools import cache

from timm.data import ImageNetInfo

IMAGENET_CLASSES = 1000
ANIMALS = 398
"""The first so many of them are animals: "crane" shall not be the machine."""

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
"""English name → indices of ImageNet-1k (Russakovsky et al. 2015), whose synsets are its hyponyms in WordNet."""


def imagenet_indices(name: str) -> list[int]:
    """Return the indices of the ImageNet classes that are a kind of an animal, given by its English name.

    An animal that is not in :data:`SYNSETS` is looked up among ImageNet's own names ("red panda", "zebra"); without
    one of that name the list is empty.
    """
    if name.lower() in SYNSETS:
        return list(SYNSETS[name.lower()])
    wanted = name.lower().replace("_", " ").replace("-", " ")
    return [index for index, lemmas in enumerate(_animal_lemmas()) if wanted in lemmas]


@cache
def _animal_lemmas() -> list[list[str]]:
    info = ImageNetInfo("imagenet-1k")
    return [info.index_to_description(index).lower().replace("-", " ").split(", ") for index in range(ANIMALS)]
