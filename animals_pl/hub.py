"""Addresses on the Hugging Face Hub, and errors of ``huggingface_hub``, which is imported when needed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from animals_pl.errors import UsageError, one_line

SCHEME = "hf://"

LOGIN = "Run 'hf auth login' or set HF_TOKEN"

_NAME = r"[A-Za-z0-9][\w.-]*"
_ADDRESS = re.compile(rf"hf://(?P<datasets>datasets/)?(?P<name>{_NAME}/{_NAME})(@(?P<revision>[\w./-]+))?", re.ASCII)

Kind = Literal["dataset", "model"]

FORMS = {"dataset": "hf://datasets/OWNER/NAME", "model": "hf://OWNER/NAME"}

PACKAGES = {"dataset": "'animals_pl[train,hub]'", "model": "huggingface_hub"}
"""What ``pip install`` needs."""

ONNX_FILE, CHECKPOINT_FILE = "model.onnx", "best.ckpt"
"""Files of a model on the hub, for ``Identifier`` and for ``load_model``."""


@dataclass(frozen=True)
class Address:
    """A dataset or a model on the hub.

    Attributes:
        text: As it was given.
        argument: Name of the option that it was given for.
        name: ``OWNER/NAME``.
        kind: What it is.
        revision: Branch, tag or commit; None: the main branch.
    """

    text: str
    argument: str
    name: str
    kind: Kind
    revision: str | None = None


def is_address(path: str) -> bool:
    """Whether a path is an address on the hub."""
    return path.startswith(SCHEME)


def parse_address(text: str, argument: str, kind: Kind = "dataset") -> Address:
    """Read ``hf://datasets/OWNER/NAME``, or ``hf://OWNER/NAME`` of a model, with or without ``@REVISION``.

    Raises:
        UsageError: The text is something else.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None or bool(found["datasets"]) != (kind == "dataset") or found["name"].startswith("datasets/"):
        form = FORMS[kind]
        raise UsageError(f"{argument}={text!r} is not an address of a {kind}. Pass {form} or {form}@REVISION.")
    return Address(text, argument, found["name"], kind, found["revision"])


def local_file(path: str | Path, argument: str, name: str) -> str | Path:
    """The path itself; for ``hf://OWNER/NAME``, a file of this model, downloaded to the cache of ``huggingface_hub``.

    Raises:
        UsageError: The file cannot be downloaded.
    """
    if not isinstance(path, str) or not is_address(path):
        return path
    address = parse_address(path, argument, "model")
    with hub_errors(address):
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(address.name, name, revision=address.revision))


@contextmanager
def hub_errors(address: Address) -> Iterator[None]:
    """Re-raise errors of ``huggingface_hub`` as a one-line UsageError with a remedy."""
    try:
        from huggingface_hub import errors
    except ImportError as error:
        raise UsageError(
            f"{address.argument}={address.text!r} needs huggingface_hub. Run pip install {PACKAGES[address.kind]}."
        ) from error
    try:
        yield
    except errors.GatedRepoError as error:
        fault = f"is gated. Accept its conditions on its page on the hub. {LOGIN}"
        raise _refusal(address, fault) from error
    except errors.RepositoryNotFoundError as error:
        fault = f"does not exist, or is private. Check the name. {LOGIN} if it is private"
        raise _refusal(address, fault) from error
    except errors.HFValidationError as error:
        raise _refusal(address, f"is not a valid name ({one_line(error)}). Check the name") from error
    except errors.RevisionNotFoundError as error:
        raise _refusal(address, f"has no revision {address.revision!r}. Choose a branch, a tag or a commit") from error
    except errors.RemoteEntryNotFoundError as error:
        fault = f"has no such file ({one_line(error)}). Choose a repository written by 'python -m animals_pl push'"
        raise _refusal(address, fault) from error
    except (errors.HfHubHTTPError, errors.LocalTokenNotFoundError) as error:
        status = getattr(getattr(error, "response", None), "status_code", 401)
        remedy = f"{LOGIN}, with a token that permits this" if status in (401, 403) else "Try again later"
        raise _refusal(address, f"was refused by the hub ({one_line(error)}). {remedy}") from error
    except (errors.HTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        fault = f"cannot be reached ({one_line(error)}). Check the network, and that HF_HUB_OFFLINE is not set"
        raise _refusal(address, fault) from error
    except (RuntimeError, ConnectionError, PermissionError) as error:  # raised by hf_xet and by upload threads
        if isinstance(error, PermissionError) and error.errno:  # raised by a file of this machine
            raise
        fault = f"could not be transferred completely ({one_line(error.__cause__ or error)}). Try again"
        raise _refusal(address, fault) from error


def _refusal(address: Address, fault: str) -> UsageError:
    return UsageError(f"{address.argument}={address.text!r} {fault}.")
