"""Which ImageNet classes are an animal, against ImageNet's own names and WordNet's definitions."""

from __future__ import annotations

import re

import pytest
from timm.data import ImageNetInfo

from animals_pl.data.catalog import ANIMALS10, english_name
from animals_pl.models.synsets import ANIMALS, IMAGENET_CLASSES, SYNSETS, imagenet_indices, imagenet_name

INFO = ImageNetInfo("imagenet-1k")

HYPONYMS = {
    "dog": (
        "dog|terrier|hound|spaniel|sheepdog|retriever|collie|newfoundland|pinscher|poodle|schnauzer|"
        "setter|bulldog|corgi|foxhound|hairless|spitz|appenzeller|basenji|bouvier|briard|chow|"
        "entlebucher|griffon|pekinese|pug|rottweiler|schipperke"
    ),
    "cat": "cat|cats|tabby",
    "elephant": "elephant|elephants|tusker|tusks",
    "horse": "horse|horses",
    "cow": "ox|bull|cattle|bovine|bos",
    "sheep": "sheep",
    "chicken": "chicken|hen|rooster|cock|chickens",
    "spider": "spider|spiders|tarantula",
    "butterfly": "butterfly|butterflies",
    "squirrel": "squirrel|squirrels",
}
"""Words by which a person knows the animal in ImageNet's name and definition of one of its classes."""


def words_of(index: int) -> set[str]:
    """Return the words of a class's names and definition."""
    return set(re.findall(r"[a-z\-]+", INFO.index_to_description(index, detailed=True).lower()))


@pytest.mark.parametrize("name", list(SYNSETS))
def test_every_class_is_a_kind_of_the_animal(name):
    indices = imagenet_indices(name)
    known = set(HYPONYMS[name].split("|"))
    assert [INFO.index_to_description(index) for index in indices if not words_of(index) & known] == []
    assert indices == sorted(set(indices))
    assert all(0 <= index < ANIMALS for index in indices)


def test_no_class_is_two_animals():
    indices = [index for name in SYNSETS for index in imagenet_indices(name)]
    assert len(indices) == len(set(indices))


@pytest.mark.parametrize(
    ("name", "outside"),
    [
        ("dog", [150, 269, 273, 275]),  # sea lion, timber wolf, dingo, African hunting dog: none is a house dog
        ("cat", [280, 286, 291]),  # grey fox, cougar, lion
        ("spider", [71, 78]),  # scorpion, tick
        ("butterfly", [320, 327]),  # damselfly, starfish
        ("elephant", [384, 387]),  # indri, lesser panda
        ("chicken", [6, 9, 83]),  # stingray, ostrich, prairie chicken
        ("squirrel", [334, 336]),  # porcupine, marmot
        ("cow", [344, 346]),  # hippopotamus, water buffalo
        ("horse", [338, 340]),  # guinea pig, zebra
        ("sheep", [347, 350]),  # bison, ibex
    ],
)
def test_neighbours_of_the_animal_s_classes_are_left_out(name, outside):
    assert set(imagenet_indices(name)).isdisjoint(outside)


@pytest.mark.parametrize("folder", list(ANIMALS10))
def test_every_animal_of_the_ten_is_covered(folder):
    assert imagenet_indices(english_name(folder)) == list(SYNSETS[english_name(folder)]) != []


def test_the_animals_are_the_first_classes():
    """The last animal is a fish, the first thing after it an abacus."""
    assert INFO.num_classes() == IMAGENET_CLASSES
    assert {"puffer", "fishes"} <= words_of(ANIMALS - 1)
    assert INFO.index_to_description(ANIMALS) == "abacus"


@pytest.mark.parametrize(
    ("name", "indices"),
    [
        ("zebra", [340]),
        ("Zebra", [340]),
        ("red_panda", [387]),
        ("red-panda", [387]),
        ("Red Panda", [387]),
        ("giant panda", [388]),
        ("African elephant", [386]),
        ("african_elephant", [386]),
        ("DOG", list(range(151, 269))),
        ("black-and-tan_coonhound", [165]),
    ],
)
def test_other_animals_are_found_by_imagenet_s_own_names(name, indices):
    assert imagenet_indices(name) == indices
    wanted = name.lower().replace("_", " ").replace("-", " ")
    assert wanted in SYNSETS or wanted in INFO.index_to_description(indices[0]).lower().replace("-", " ").split(", ")


@pytest.mark.parametrize("name", ["unicorn", "", "panda red", "pand", "cane", "gatto", "animal", "abacus", "minivan"])
def test_what_imagenet_does_not_know_by_that_name_has_no_class(name):
    assert imagenet_indices(name) == []


def test_a_crane_is_a_bird_and_no_machine():
    assert [index for index in range(IMAGENET_CLASSES) if "crane" in INFO.index_to_description(index)] == [134, 517]
    assert imagenet_indices("crane") == [134]
    assert {"bird", "wading"} <= words_of(134)


def test_every_animal_but_a_partridge_has_a_name_of_its_own():
    """The other one is "ruffed grouse, partridge"; some others share only their first name, as crayfish do."""
    names = list(map(imagenet_name, range(ANIMALS)))
    assert all(name in INFO.index_to_description(index).lower().replace("-", " ") for index, name in enumerate(names))
    assert {name: indices for name in names if len(indices := imagenet_indices(name)) > 1} == {"partridge": [82, 86]}
    assert [imagenet_indices(name)[-1] for name in names] == list(range(ANIMALS))
    assert names[82] == "ruffed grouse"
