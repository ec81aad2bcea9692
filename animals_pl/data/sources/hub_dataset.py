"""Download image datasets of the Hugging Face Hub: folders of images, or Parquet files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from animals_pl.data.catalog import SPLIT_FOLDERS
from animals_pl.data.sources.archives import ARCHIVE_SUFFIXES, UNSAFE_NAME
from animals_pl.errors import UsageError, listed
from animals_pl.hub import hub_errors, parse_address


def download_dataset(source: str) -> tuple[Path, list[str]]:
    """Download a dataset to the cache of ``huggingface_hub``; files that are there already are not downloaded again.

    Args:
        source: ``hf://datasets/OWNER/NAME``, with or without ``@REVISION``.

    Returns:
        The folder of the dataset, and the Parquet files in it. If there are any, nothing else was downloaded.

    Raises:
        UsageError: The dataset cannot be downloaded, or has neither images nor Parquet files.
    """
    address = parse_address(source, "source")
    with hub_errors(address):
        from huggingface_hub import HfApi, snapshot_download

        info = HfApi().dataset_info(address.name, revision=address.revision)
        files = sorted(file.rfilename for file in info.siblings or [])
        parquet = [file for file in files if file.endswith(".parquet")]
        if not parquet and not any("/" in file for file in files):
            raise UsageError(
                f"source={source!r} has neither Parquet files nor folders of images (it has {listed(files)}). "
                "Download an archive yourself and pass it as --source."
            )
        if unsafe := [file for file in files if UNSAFE_NAME.search(file)]:
            raise UsageError(f"source={source!r}: its file {unsafe[0]!r} is outside the folder. Choose another.")
        folder = snapshot_download(
            address.name,
            repo_type="dataset",
            revision=info.sha,
            allow_patterns="*.parquet" if parquet else None,
            ignore_patterns=None if parquet else [f"*{suffix}" for suffix in ARCHIVE_SUFFIXES],
        )
    return Path(folder), parquet


def split_of_files(files: Sequence[str], source: str) -> dict[str, str]:
    """File → its split, from names such as ``data/train-00000-of-00002.parquet`` or ``default/test/0000.parquet``.

    All are empty if there are fewer than two splits.

    Raises:
        UsageError: The files belong to several configurations, or some have no split.
    """
    split_of = {file: _split(PurePosixPath(file)) for file in files}
    folders = {_without_split(PurePosixPath(file)) for file in files}
    if len(folders) > 1:
        raise UsageError(
            f"source={source!r} has several configurations ({listed(sorted(map(str, folders)))}). Write the images of "
            "one of them into one folder per class, and pass this folder as --source."
        )
    if len({*split_of.values()} - {""}) < 2:
        return dict.fromkeys(files, "")
    if others := [file for file, split in split_of.items() if not split]:
        raise UsageError(
            f"source={source!r}: {others[0]!r} is not in a training, validation or test split. Write the images into "
            "one folder per class, and pass this folder as --source."
        )
    return split_of


def _split(file: PurePosixPath) -> str:
    words = (re.split(r"[-._]", file.name)[0], file.parent.name)
    return next((SPLIT_FOLDERS[word.lower()] for word in words if word.lower() in SPLIT_FOLDERS), "")


def _without_split(file: PurePosixPath) -> PurePosixPath:
    """The folder of a file, without a last part such as ``train``."""
    return file.parent.parent if file.parent.name.lower() in SPLIT_FOLDERS else file.parent
