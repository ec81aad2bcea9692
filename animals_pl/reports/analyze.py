"""The verb ``analyze``: inspect a dataset and write a page, tables, figures and TensorBoard events of it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from animals_pl.data.catalog import Catalog
from animals_pl.data.inspection.manifest import catalog_of, scan, write_manifest
from animals_pl.data.tables import read_rows, write_table
from animals_pl.errors import UsageError
from animals_pl.reports import findings
from animals_pl.reports.dataset_figures import all_figures
from animals_pl.reports.dataset_report import Findings, Report, suspicion
from animals_pl.reports.thumbnails import png_uri
from animals_pl.training.run_folder import new_run_folder


def analyze(
    source: str,
    output: str | None = None,
    split: str | None = None,
    ckpt_path: str | None = None,
    model: str | None = None,
) -> None:
    """Say what is in a dataset and what is wrong with it.

    Args:
        source: A folder with one folder of images per class, or a manifest.csv of prepare.
        output: New folder for the report; null: the next checkpoints/analysis/version_N.
        split: The split.csv of a run, to find duplicates that are in two splits.
        ckpt_path: A run's best.ckpt: label errors are sought in what its backbone sees. A frozen backbone has not
            learnt the errors; a fine-tuned one may have.
        model: The same with a file that export wrote.
    """
    if ckpt_path and model:
        raise UsageError("ckpt_path and model both say where features come from; pass one of them")
    console = Console(highlight=False, soft_wrap=True)
    catalog = catalog_of(source, "source")
    split_of = _read_splits(split, catalog) if split else {}
    _refuse_used(output)
    found = _find(catalog, split_of, ckpt_path, model, console)
    folder = _make_folder(output)
    pictures = _write_figures(all_figures(found.manifest, catalog.root), folder)
    files = [*_write_tables(found, folder), *(f"figures/{name}.png" for name in pictures)]
    report = Report(found, folder).write(pictures, files)
    _print_summary(found, console)
    console.print(f"\nreport: {report}\nleave images out: edit {folder / 'exclude.csv'}, then fit --data.exclude")


def _find(
    catalog: Catalog, split_of: dict[str, str], ckpt_path: str | None, model: str | None, console: Console
) -> Findings:
    scanned = scan(catalog)
    console.print(str(scanned))
    manifest = scanned.manifest
    if findings.readable(manifest).empty:
        raise UsageError(f"source={str(catalog.root)!r}: none of its images can be decoded; mend some")
    return Findings(
        root=catalog.root,
        manifest=manifest,
        classes=findings.class_table(manifest),
        odd=findings.odd_table(manifest),
        broken=findings.broken_table(manifest),
        duplicates=findings.duplicate_table(manifest, split_of),
        label_errors=_label_errors(catalog, manifest, ckpt_path, model) if ckpt_path or model else None,
    )


def _read_splits(split: str, catalog: Catalog) -> dict[str, str]:
    """Return path → split of a split of these images."""
    split_of = {row["path"]: row["split"] for row in read_rows(Path(split), "split", "path", "split")}
    if not split_of.keys() & set(catalog.paths):
        raise UsageError(
            f"split={split!r} names none of the images in {str(catalog.root)!r}; pass one of a run on them"
        )
    return split_of


def _refuse_used(output: str | None) -> None:
    folder = Path(output or "")
    if output and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"output={output!r} exists and is not an empty folder; choose another, or leave it out")


def _make_folder(output: str | None) -> Path:
    """Return a new folder, or an empty one."""
    if output is None:
        return new_run_folder(Path("checkpoints") / "analysis")
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"output={output!r} cannot be written ({error.strerror}); choose another folder") from error
    return Path(output)


def _label_errors(catalog: Catalog, manifest: pd.DataFrame, ckpt_path: str | None, model: str | None) -> pd.DataFrame:
    from animals_pl.reports import label_errors  # the only part that needs a net

    usable = findings.readable(manifest)
    images = catalog.select(usable["path"].tolist())
    if ckpt_path:
        features = label_errors.checkpoint_features(ckpt_path, images)
    else:
        features = label_errors.onnx_features(str(model), images)
    return label_errors.label_error_table(usable, features)


def _write_figures(figures: dict[str, Figure], folder: Path) -> dict[str, str]:
    """Write the figures as PNG files and TensorBoard events, and return them as data URIs."""
    (folder / "figures").mkdir()
    files = {name: folder / "figures" / f"{name}.png" for name in figures}
    for name, figure in figures.items():
        figure.savefig(files[name], dpi=110)
    _write_events(files, folder)
    return {name: png_uri(file) for name, file in files.items()}


def _write_events(files: dict[str, Path], folder: Path) -> None:
    """Write PNG files as images for TensorBoard; torch's writer would do it at the price of loading torch."""
    images = [
        Summary.Value(tag=f"dataset/{name}", image=Summary.Image(encoded_image_string=file.read_bytes()))
        for name, file in files.items()
    ]
    writer = EventFileWriter(str(folder))
    writer.add_event(Event(wall_time=time.time(), step=0, summary=Summary(value=images)))
    writer.close()


def _write_tables(found: Findings, folder: Path) -> Iterable[str]:
    """Write every table as CSV, the list of images to leave out, and the manifest; return their names."""
    tables = {
        "classes": found.classes,
        "sizes": findings.size_table(found.manifest, 50),
        "odd": found.odd,
        "broken": found.broken,
        "duplicates": found.duplicates,
        **({} if found.label_errors is None else {"label_errors": found.label_errors}),
    }
    (folder / "tables").mkdir()
    for name, table in tables.items():
        write_table(table, folder / "tables" / f"{name}.csv")
    write_table(_exclude_table(found), folder / "exclude.csv")
    write_manifest(found.manifest, found.root, folder / "manifest.csv")
    return ["exclude.csv", "manifest.csv", *(f"tables/{name}.csv" for name in tables)]


def _exclude_table(found: Findings) -> pd.DataFrame:
    """Return the images whose label is in doubt: suspects, and copies of one file under two labels."""
    copies = found.copies
    contested = found.manifest[found.manifest["sha256"].isin(copies.index[copies["labels"] > 1])]
    labels_of = contested.groupby("sha256")["label"].agg(lambda names: " and ".join(sorted(set(names))))
    reasons = [f"one file under the labels {labels_of[content]}" for content in contested["sha256"]]
    rows = dict(zip(contested["path"], reasons, strict=True))
    if found.label_errors is not None:
        rows |= dict(zip(found.label_errors["path"], suspicion(found.label_errors), strict=True))
    return pd.DataFrame(list(rows.items()), columns=["path", "reason"])


def _print_summary(found: Findings, console: Console) -> None:
    groups = found.duplicates.drop_duplicates("group")
    sizes, _ = findings.suggest_sizes(found.manifest)
    imbalance = f"{found.imbalance:.2f} : 1"
    lines = {
        "images": f"{len(found.manifest):,} in {len(found.classes)} classes, imbalance {imbalance}",
        "broken": f"{len(found.broken):,}",
        "copies": f"{len(found.copies):,} groups",
        "near-duplicates": f"{len(found.near_duplicates):,} groups",
        "largest group": f"{groups['copies'].max() if len(groups) else 0:,} images",
        "under two labels": f"{np.count_nonzero(groups['labels'] > 1):,} groups",
        "in two splits": f"{np.count_nonzero(groups['splits'] > 1):,} groups",
        "suspected labels": "not sought (pass --ckpt_path or --model)"
        if found.label_errors is None
        else f"{len(found.label_errors):,}",
        "sizes to train at": " → ".join(map(str, sizes)) + " px",
    }
    for name, value in lines.items():
        console.print(f"{name:<18} {value}")
