"""Fixtures of the tests of training."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of random weights with a classifier of ImageNet's classes."""
    torch.manual_seed(8)
    file = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), file)
    return str(file)
