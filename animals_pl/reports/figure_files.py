"""Figures of a report as PNG files, and figures and metrics as TensorBoard events."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from animals_pl.files import atomic_write
from animals_pl.reports.page import FIGURE_DPI
from animals_pl.reports.thumbnails import data_uri


def write_figures(
    figures: dict[str, Figure], folder: Path, tag: str, scalars: Mapping[str, float] | None = None, step: int = 0
) -> dict[str, str]:
    """Write figures as ``figures/NAME.png`` and as TensorBoard images ``TAG/NAME``; return them as data URIs.

    Events that an earlier report wrote into the folder are replaced.

    Args:
        figures: Name → figure.
        folder: Folder of the report.
        tag: Prefix of the images' names in TensorBoard.
        scalars: Metrics for TensorBoard.
        step: Epoch of the metrics.
    """
    files = {name: folder / "figures" / f"{name}.png" for name in figures}
    for name, figure in figures.items():
        with atomic_write(files[name]) as partial:
            figure.savefig(partial, dpi=FIGURE_DPI, format="png")
    # RecordWriter, because torch.utils.tensorboard imports torch and EventFileWriter needs a folder name in UTF-8
    images = [
        Summary.Value(tag=f"{tag}/{name}", image=Summary.Image(encoded_image_string=file.read_bytes()))
        for name, file in files.items()
    ]
    metrics = [Summary.Value(tag=name, simple_value=value) for name, value in (scalars or {}).items()]
    now, suffix = time.time(), f".{tag}"
    for earlier in folder.glob(f"events.out.tfevents.*{suffix}"):
        earlier.unlink()
    with atomic_write(folder / f"events.out.tfevents.{now:.0f}{suffix}") as partial, partial.open("wb") as stream:
        writer = RecordWriter(stream)
        writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        writer.write(Event(wall_time=now, step=step, summary=Summary(value=[*images, *metrics])).SerializeToString())
    return {name: data_uri("png", file.read_bytes()) for name, file in files.items()}
