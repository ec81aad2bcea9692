"""``report --card``: the model card of a run, with its review contract."""

from __future__ import annotations

from pathlib import Path

from animals_pl.experiments.evaluations import contract_lines
from animals_pl.files import require_writable
from animals_pl.reports.model_card import CARD_FILE, write_model_card


def card(run: Path, output: str | None = None, recall: str | None = None, precision: float | None = None) -> Path:
    """Write the model card of a run, by default as ``MODEL_CARD.md`` in its folder, and return its path.

    Args:
        run: Folder of the run.
        output: The Markdown file to write.
        recall, precision: Goals of the contract, see :func:`contract_lines`.

    Raises:
        UsageError: The folder is not a run, its evaluations are of different models, or the file cannot be written.
    """
    file = run / CARD_FILE if output is None else Path(output)
    require_writable(file)
    validated = (run / "evaluation" / "val").is_dir()
    write_model_card(run, file, list(contract_lines(run, recall, precision)) if validated else ())
    return file
