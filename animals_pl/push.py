"""Upload a run to the Hugging Face Hub."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from animals_pl import __version__
from animals_pl.deploy.export import export
from animals_pl.deploy.timm_folder import TIMM_FILES, export_timm_folder, timm_model
from animals_pl.errors import UsageError, listed
from animals_pl.files import printable
from animals_pl.hub import CHECKPOINT_FILE, ONNX_FILE, SCHEME, Address, hub_errors, is_address, parse_address
from animals_pl.reports.model_card import write_model_card
from animals_pl.training.checkpoint import load_checkpoint, portable_checkpoint
from animals_pl.training.trained import load_model

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo

CARD_FILE = "README.md"

MODEL_FILES = {ONNX_FILE, CHECKPOINT_FILE, *TIMM_FILES}


def push(run: str, repo: str, public: bool = False, yes: bool = False) -> None:
    """Upload a run to a model repository on the Hugging Face Hub.

    A new repository is private. It gets model.onnx, best.ckpt (for predictions only), the model card as README.md and,
    for a linear head on timm's own features without test-time augmentation, model.safetensors and config.json for timm.
    All are uploaded in one commit. The golden images in model.onnx are drawings, because photographs may not be
    redistributed without permission. No file contains paths of this machine.

    Args:
        run: Folder of the run, with its best.ckpt.
        repo: OWNER/NAME of the repository.
        public: Make the repository public after the upload. You are asked first.
        yes: Do not ask whether the repository may become public.

    Raises:
        UsageError: The run has no best.ckpt or cannot be exported; the repository holds another model, or is public
            without ``public``; ``public`` is not confirmed; or the hub refuses the upload.
    """
    address, folder = _address(repo), _run_folder(run)
    if yes and not public:
        raise UsageError("yes=true has no effect without public=true. Remove it.")
    if public and not yes:
        _confirm(address.name)
    with hub_errors(address):
        from huggingface_hub import HfApi

        api = HfApi()
        api.whoami()  # before the work: is there a valid token?
        found = _repository(api, address.name)
    if found is not None:
        _require_suitable(found, public)
    with TemporaryDirectory() as temporary:
        files = _write_files(folder, Path(temporary))
        megabytes = sum(file.stat().st_size for file in files.values()) / 1e6
        with hub_errors(address):
            _upload(api, address.name, found, files, public)
    names = ", ".join(sorted(files))
    print(
        f"{address.name} ({'public' if public else 'private'}): {names} uploaded ({megabytes:.1f} MB)\n"
        f"use: Identifier('{SCHEME}{address.name}'), load_model('{SCHEME}{address.name}')"
    )


def _address(repo: str) -> Address:
    address = parse_address(repo if is_address(repo) else f"{SCHEME}{repo}", "repo", "model")
    if address.revision:
        raise UsageError(f"repo={repo!r} names a revision, but the main branch is written. Pass {address.name}.")
    return replace(address, text=repo)


def _run_folder(run: str) -> Path:
    folder = Path(run)
    for name in ("config.yaml", CHECKPOINT_FILE):
        if not (folder / name).is_file():
            raise UsageError(
                f"run={run!r} has no {name}. Pass the folder of a run, such as checkpoints/NAME/version_0."
            )
    return folder


def _confirm(name: str) -> None:
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(f"public=true: there is no terminal to ask whether {name} may be public. Pass --yes true.")
    print(f"{name} becomes public: everyone can download the model and its card. Continue? [y/N]", end=" ", flush=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise UsageError("public=true was not confirmed, so nothing was uploaded. Remove it for a private repository.")


def _repository(api: HfApi, name: str) -> ModelInfo | None:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return api.model_info(name)
    except RepositoryNotFoundError:
        return None


def _files(found: ModelInfo | None) -> set[str]:
    """Names of our files in a repository."""
    siblings = (found and found.siblings) or []
    return MODEL_FILES & {sibling.rfilename for sibling in siblings}


def _require_suitable(found: ModelInfo, public: bool) -> None:
    """Raise UsageError if a repository must not be written."""
    if not found.private and not public:
        raise UsageError(f"repo={found.id!r} is public. Pass --public true, or make it private on its settings page.")
    files = _files(found)
    if files and CHECKPOINT_FILE not in files:
        raise UsageError(f"repo={found.id!r} has another model ({listed(sorted(files))}). Choose another repository.")


def _write_files(run: Path, folder: Path) -> dict[str, Path]:
    """Write what is uploaded into a folder, and return the files by their names in the repository."""
    checkpoint, timm_folder = run / CHECKPOINT_FILE, folder / "timm"
    write_model_card(run, str(folder / CARD_FILE))
    model = load_model(checkpoint)
    torch.save(portable_checkpoint(load_checkpoint(checkpoint)), folder / CHECKPOINT_FILE)
    with redirect_stdout(io.StringIO()):  # its output names temporary files
        export(checkpoint, folder / ONNX_FILE, golden="practice")
    try:
        timm_model(model)
    except UsageError as error:
        reason = str(error).rpartition(". ")[0]  # drop the remedy, which names an option of export
        print(printable(f"without {' and '.join(TIMM_FILES)}: {reason}"))
    else:
        with redirect_stdout(io.StringIO()):
            export_timm_folder(model, timm_folder)
    return {file.name: file for file in folder.rglob("*") if file.is_file()}


def _upload(api: HfApi, name: str, found: ModelInfo | None, files: Mapping[str, Path], public: bool) -> None:
    """Write a repository in one commit; its visibility changes at the end."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    if found is None:
        api.create_repo(name, private=True)
    api.create_commit(
        name,
        [
            *(CommitOperationAdd(path, file) for path, file in sorted(files.items())),
            *(CommitOperationDelete(path) for path in sorted(_files(found) - files.keys())),
        ],
        commit_message=f"Upload with animals_pl {__version__}",
    )
    if public:
        api.update_repo_settings(name, private=False)
