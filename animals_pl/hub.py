"""Addresses and downloads of the Hugging Face Hub (``huggingface_hub``, imported when it is needed)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from animals_pl.errors import UsageError, one_line

SCHEME = "hf://"

ONNX_FILE, CHECKPOINT_FILE = "model.onnx", "best.ckpt"
"""Files of a repository that ``push`` wrote: what ``Identifier`` and ``load_model`` load."""

LOGIN = "Run 'hf auth login' or set HF_TOKEN"

_NAME = r"[A-Za-z0-9][\w.-]*"
_ADDRESS = re.compile(rf"hf://(?P<dataset>datasets/)?(?P<name>{_NAME}/{_NAME})(@(?P<revision>[\w./-]+))?", re.ASCII)


@dataclass(frozen=True)
class Address:
    """A repository of the hub.

    Attributes:
        text: As it was given.
        argument: Name of the option that it was given for.
        name: ``OWNER/NAME``.
        is_dataset: Whether it is a dataset; otherwise a model.
        revision: Branch, tag or commit; None: the main branch.
    """

    text: str
    argument: str
    name: str
    is_dataset: bool = False
    revision: str | None = None

    @property
    def repo_type(self) -> str:
        """The type in the hub's API."""
        return "dataset" if self.is_dataset else "model"


def is_address(path: object) -> bool:
    """Whether a path is the address of a repository."""
    return isinstance(path, str) and path.startswith(SCHEME)


def parse_address(text: str, argument: str, *, dataset: bool = False) -> Address:
    """Read ``hf://OWNER/NAME`` or ``hf://datasets/OWNER/NAME``, each with or without ``@REVISION``.

    Raises:
        UsageError: The text is something else.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None or bool(found["dataset"]) != dataset:
        expected = "hf://datasets/OWNER/NAME" if dataset else "hf://OWNER/NAME"
        raise UsageError(f"{argument}={text!r} is not an address of the hub. Pass {expected} or {expected}@REVISION.")
    return Address(text, argument, found["name"], dataset, found["revision"])


def local_file(path: str | Path, file: str, argument: str) -> str | Path:
    """The path; of an address of the hub, the downloaded ``file`` of that repository.

    Files are kept in the cache of ``huggingface_hub`` and downloaded again when they change.

    Raises:
        UsageError: The file cannot be downloaded.
    """
    if not is_address(path):
        return path
    address = parse_address(str(path), argument)
    with hub_errors(address):
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(address.name, file, revision=address.revision))


@contextmanager
def hub_errors(address: Address) -> Iterator[None]:
    """Re-raise errors of ``huggingface_hub`` as a one-line UsageError with a remedy."""
    try:
        from huggingface_hub import errors
    except ImportError as error:
        raise UsageError(
            f"{address.argument}={address.text!r} needs huggingface_hub. Run pip install 'animals_pl[hub]'."
        ) from error
    try:
        yield
    except errors.GatedRepoError as error:
        fault = f"is gated. Accept its conditions on its page on the hub. {LOGIN}"
        raise _refusal(address, fault) from error
    except errors.RepositoryNotFoundError as error:
        fault = f"does not exist, or is private. Check the name. {LOGIN} if it is private"
        raise _refusal(address, fault) from error
    except errors.RevisionNotFoundError as error:
        raise _refusal(address, f"has no revision {address.revision!r}. Choose a branch, a tag or a commit") from error
    except errors.RemoteEntryNotFoundError as error:
        raise _refusal(address, f"lacks a file ({one_line(error)}). Write it with 'animals_pl push'") from error
    except (errors.HfHubHTTPError, errors.LocalTokenNotFoundError) as error:
        status = getattr(getattr(error, "response", None), "status_code", 401)
        remedy = f"{LOGIN}, with a token that has the permission" if status in (401, 403) else "Try again later"
        raise _refusal(address, f"was refused by the hub ({one_line(error)}). {remedy}") from error
    except (errors.HTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        fault = f"cannot be reached ({one_line(error)}). Check the network, and that HF_HUB_OFFLINE is not set"
        raise _refusal(address, fault) from error


def _refusal(address: Address, fault: str) -> UsageError:
    return UsageError(f"{address.argument}={address.text!r} {fault}.")
