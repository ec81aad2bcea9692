"""Scientific names of classes."""

from __future__ import annotations

from typing import NamedTuple


class Taxon(NamedTuple):
    """A taxon and its rank, in Darwin Core terms."""

    scientific_name: str
    rank: str


TAXA = {
    "dog": Taxon("Canis lupus familiaris", "subspecies"),
    "horse": Taxon("Equus caballus", "species"),
    "elephant": Taxon("Elephantidae", "family"),
    "butterfly": Taxon("Lepidoptera", "order"),
    "chicken": Taxon("Gallus gallus", "species"),
    "cat": Taxon("Felis catus", "species"),
    "cow": Taxon("Bos taurus", "species"),
    "sheep": Taxon("Ovis aries", "species"),
    "spider": Taxon("Araneae", "order"),
    "squirrel": Taxon("Sciuridae", "family"),
}
"""English name of each class of Animals-10 → the lowest taxon that contains all of its animals."""


def taxon_of(english_name: str) -> Taxon | None:
    """Taxon of a class by its English name, if it is known."""
    return TAXA.get(english_name.lower())
