"""The command ``analyze``: write a dataset report (page, tables, figures and TensorBoard events)."""

from __future__ import annotations

from pathlib import Path

from animals_pl.data.catalog import MAX_CLASSES, Catalog, split_called
from animals_pl.data.inspection.manifest import catalog_of, scan, write_manifest
from animals_pl.data.tables import read_image_rows, write_table
from animals_pl.errors import UsageError, counted
from animals_pl.files import printable, require_empty
from animals_pl.reports.dataset_figures import all_figures
from animals_pl.reports.dataset_report import DatasetReport
from animals_pl.reports.figure_files import write_figures
from animals_pl.reports.findings import Findings, readable, size_table, suggest_sizes
from animals_pl.training.run_folder import new_run_folder

SIZES = 50
"""Number of image sizes in sizes.csv, the most frequent ones."""


def analyze(
    source: str,
    output: str | None = None,
    split: str | None = None,
    ckpt_path: str | None = None,
    model: str | None = None,
) -> None:
    """Report what is in a dataset and what is wrong with it.

    Args:
        source: A folder with one folder of images per class, or a manifest.csv written by prepare.
        output: New or empty folder for the report. Default: the next checkpoints/analysis/version_N.
        split: The split.csv of a run, to report duplicates that span splits.
        ckpt_path: Search for label errors with the backbone of this checkpoint. A frozen backbone has not been
            trained on the errors; a fine-tuned one may have learned them.
        model: Search for label errors with this exported ONNX file.

    Raises:
        UsageError: An argument cannot be used, or no image can be decoded.
    """
    if ckpt_path and model:
        raise UsageError("ckpt_path and model are mutually exclusive. Pass one of them.")
    catalog = catalog_of(source, "source")
    split_of = _read_split(split, catalog) if split else catalog.folder_splits()
    if output:
        require_empty(Path(output))
    found = _find(catalog, split_of, ckpt_path, model)
    folder = _make_folder(output)
    figures = write_figures(all_figures(found.manifest, catalog.root), folder, "dataset")
    files = [*_write_tables(found, folder), *(f"figures/{name}.png" for name in figures)]
    report = DatasetReport(found, folder).write(figures, files)
    _print_summary(found)
    print(f"\nreport: {printable(report)}")
    print(printable(f"to exclude images: edit {folder / 'exclude.csv'} and pass it to fit --data.exclude"))


def _find(catalog: Catalog, split_of: dict[str, str], ckpt_path: str | None, model: str | None) -> Findings:
    scanned = scan(catalog)
    print(scanned)
    if catalog.split_folders:
        print(f"split: folders {', '.join(catalog.split_folders)}")
    rows = readable(scanned.manifest)
    if rows.empty:
        raise UsageError(f"source={str(catalog.root)!r}: none of its images can be decoded. Fix the files.")
    label_errors = None
    if ckpt_path or model:
        from animals_pl.reports import label_errors as search  # imports scikit-learn

        images = catalog.select(rows["path"].tolist())
        features = (
            search.checkpoint_features(ckpt_path, images) if ckpt_path else search.onnx_features(str(model), images)
        )
        label_errors = search.find_label_errors(rows, features)
    return Findings(catalog.root, scanned.manifest, split_of, label_errors)


def _read_split(split: str, catalog: Catalog) -> dict[str, str]:
    rows = read_image_rows(Path(split), "split", catalog.root, catalog.paths, "split")
    split_of = {row["path"]: split_called(row["split"]) for row in rows}
    if not split_of.keys() & set(catalog.paths):
        raise UsageError(
            f"split={split!r} has none of the images in {str(catalog.root)!r}. "
            "Pass the split.csv of a run on this dataset."
        )
    return split_of


def _make_folder(output: str | None) -> Path:
    if output is None:
        return new_run_folder(Path("checkpoints") / "analysis")
    Path(output).mkdir(parents=True, exist_ok=True)
    return Path(output)


def _write_tables(found: Findings, folder: Path) -> list[str]:
    """Write all tables, exclude.csv and manifest.csv; return their names relative to the folder."""
    tables = {
        "exclude": found.exclude,
        "tables/classes": found.classes,
        "tables/sizes": size_table(found.manifest, SIZES),
        "tables/outliers": found.outliers,
        "tables/broken": found.broken,
        "tables/duplicates": found.duplicates,
    }
    if found.label_errors is not None:
        tables["tables/label_errors"] = found.label_errors.table
    (folder / "tables").mkdir()
    for name, table in tables.items():
        write_table(table, folder / f"{name}.csv")
    write_manifest(found.manifest, found.root, folder / "manifest.csv")
    return ["manifest.csv", *(f"{name}.csv" for name in tables)]


def _print_summary(found: Findings) -> None:
    groups, errors = found.groups, found.label_errors
    classes = counted(len(found.classes), "class")
    lines = {
        "images": f"{len(found.manifest):,} in {classes}, imbalance {found.imbalance:.2f} : 1",
        "broken": f"{len(found.broken):,}",
        "exact duplicates": counted(found.exact_groups, "group"),
        "near-duplicates": counted(found.near_groups, "group"),
        "largest group": counted(groups["images"].max() if len(groups) else 0, "image"),
        "conflicting labels": counted((groups["labels"] > 1).sum(), "group"),
        "in several splits": counted((groups["splits"] > 1).sum(), "group"),
        "suspected label errors": "not searched (pass --ckpt_path or --model)"
        if errors is None
        else f"{len(errors.table):,}",
        "training sizes": " → ".join(map(str, suggest_sizes(found.manifest)[0])) + " px",
    }
    for name, value in lines.items():
        print(f"{name:<22} {value}")
    notes = [*found.notes, *(errors.unchecked if errors else [])]
    for note in notes[:MAX_CLASSES]:
        print(printable(note))
    if len(notes) > MAX_CLASSES:
        print(f"and {counted(len(notes) - MAX_CLASSES, 'more such class')}; the report lists all")
