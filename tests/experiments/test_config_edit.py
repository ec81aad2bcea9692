"""Changing values in a configuration file."""

from __future__ import annotations

import pytest

from animals_pl.errors import UsageError
from animals_pl.experiments.config_edit import edit_config


def test_values_are_replaced_and_added_and_comments_stay():
    text = (
        "# head\nname: a   # called\n\nmodel:  # the net\n  lr: 0.1     # rate\n  empty:  # nothing\n"
        "\ndata:\n  size: 3\n"
    )
    changes = {"model.lr": 1e-5, "model.new": "yes", "model.empty": True, "trainer.x": 1, "seed": 2}
    assert edit_config(text, changes) == (
        "# head\nname: a   # called\n\nmodel:  # the net\n  lr: 1.0e-05 # rate\n  empty: true # nothing\n"
        "  new: 'yes'\n\ndata:\n  size: 3\n\ntrainer:\n  x: 1\nseed: 2\n"
    )


@pytest.mark.parametrize("text", ["model: {lr: 1}\n", "model:\n    lr: 1\n    size: 2\n", "model:\n  lr:\n    - 1\n"])
def test_another_layout_is_refused(text):
    with pytest.raises(UsageError, match="cannot be edited line by line"):
        edit_config(text, {"model.lr": 2})
