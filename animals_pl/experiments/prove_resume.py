"""Prove that a run that is killed and resumed equals an undisturbed run."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from animals_pl.arguments import normalise
from animals_pl.errors import UsageError, counted, require_range
from animals_pl.experiments.killed_fit import Moment, Phase, fit_session
from animals_pl.experiments.same_result import Comparison, compare_runs
from animals_pl.lightning_cli import FLAGS
from animals_pl.training.checkpoint import LAST_CHECKPOINT, load_checkpoint

HELP = """usage: python -m animals_pl prove-resume --config FILE [--kills N] [--kill_seed SEED] [options of fit]

Train once undisturbed. Then train the same run again in processes that are killed at random moments (in a training
batch, in a validation, while a checkpoint is saved) and resumed, and compare the last checkpoint, metrics.csv and the
TensorBoard scalars of both bit by bit. A run that ends before all kills are used up is compared, and the next one is
started. Everything is written to a temporary folder, with a cache of its own, and removed.

  --kills N           number of kills, 1 to 1000 (default: 25)
  --kill_seed SEED    seed of the moments (default: 0)
  --save_every TEXT   as in fit (default: a third of an epoch)

The exit code is 0 if all runs are equal, 1 if not."""

PHASES: dict[Phase, int] = {"training": 5, "validation": 2, "save": 3}
"""Phase → how often it is chosen, in proportion."""

MAX_DELAY = 0.05
"""Maximum seconds from the start of a batch or a save to the kill."""

MAX_LISTED = 10
"""Maximum number of differences listed."""

LAYOUT = "{:>4}  {:>3}  {:<10}  {:<25}  {}"


@dataclass(frozen=True)
class Length:
    """Length of the undisturbed run: epochs, and batches and steps in total."""

    epochs: int
    batches: int
    validation_batches: int
    steps: int


def prove_resume(args: Sequence[str], positional: str = "") -> None:
    """Run the command ``prove-resume``; ``args`` are its name and options.

    Raises:
        UsageError: An option is invalid, or a run fails.
        SystemExit: A resumed run differs; the exit code is 1.
    """
    if "--help" in args or "-h" in args:
        print(HELP)
        return
    options, _ = normalise(args[1:], positional, FLAGS)
    kills, seed = _take_number(options, "kills", 25, 1, 1000), _take_number(options, "kill_seed", 0, 0, 2**32)
    with TemporaryDirectory(prefix="prove-resume-") as name:
        folder = Path(name)
        fit_session([*options, *_in_folder(folder / "undisturbed")], _made(folder / "undisturbed"))
        expected = _run_folder(folder / "undisturbed")
        assert expected is not None
        length = _length(expected)
        if not any(option.startswith("--save_every=") for option in options):
            options.append(f"--save_every={max(1, length.steps // length.epochs // 3)}steps")
        print(f"undisturbed run: {counted(length.epochs, 'epoch')}, {length.batches:,} batches")
        print(LAYOUT.format("kill", "run", "during", "killed at", "resumed from"))
        moments = _moments(random.Random(seed), kills, length)
        done, runs, equal = 0, 0, True
        while done < kills:
            runs += 1
            root = _made(folder / f"killed{runs}")
            done += _train_with_kills(options, root, moments, done, runs)
            found = _run_folder(root)
            assert found is not None
            equal = _report(compare_runs(expected, found), runs) and equal
            shutil.rmtree(root)
    print(f"{counted(done, 'kill')} in {counted(runs, 'run')}: {'equal' if equal else 'NOT EQUAL'}")
    if not equal:
        raise SystemExit(1)


def _train_with_kills(options: list[str], root: Path, moments: Iterator[Moment], done: int, number: int) -> int:
    """Train one run to its end, and return how often it was killed."""
    kills = 0
    args, _ = _next_session(options, root)
    while kill := fit_session(args, root, next(moments, None)):
        kills += 1
        args, origin = _next_session(options, root)
        place = f"epoch {kill.epoch}, batch {kill.batch}"
        print(LAYOUT.format(done + kills, number, kill.phase, place, origin), flush=True)
    return kills


def _next_session(options: list[str], root: Path) -> tuple[list[str], str]:
    """Options of the next session of a run, and the position that it starts from."""
    run = _run_folder(root)
    if run is None or not any(run.glob("*.ckpt")):
        return [*options, *_in_folder(root)], "the start"
    last = run / LAST_CHECKPOINT
    position = _position(last) if last.exists() else "best.ckpt"
    return [f"--config={run / 'config.yaml'}", f"--ckpt_path={last}"], position


def _moments(rng: random.Random, kills: int, length: Length) -> Iterator[Moment]:
    """Moments of the kills, such that most of them fall into one run."""
    most: dict[Phase, int] = {
        "training": max(2, 2 * length.batches // kills),
        "validation": length.validation_batches,
        "save": 3,
    }
    phases = [phase for phase in PHASES if most[phase]]
    for phase in rng.choices(phases, [PHASES[phase] for phase in phases], k=kills):
        yield Moment(phase, rng.randint(1, most[phase]), rng.uniform(0, MAX_DELAY))


def _report(compared: Comparison, number: int) -> bool:
    """Print the result of a comparison, and return whether the runs are equal."""
    what = f"{compared.tensors:,} tensors, {counted(compared.epochs, 'epoch')}, {counted(compared.curves, 'curve')}"
    print(f"run {number}: {what}: {'equal' if not compared.differences else 'NOT EQUAL'}", flush=True)
    for difference in compared.differences[:MAX_LISTED]:
        print(f"  {difference}")
    if len(compared.differences) > MAX_LISTED:
        print(f"  and {len(compared.differences) - MAX_LISTED} more")
    return not compared.differences


def _length(run: Path) -> Length:
    loops = load_checkpoint(run / LAST_CHECKPOINT, mmap=True)["loops"]["fit_loop"]
    return Length(
        epochs=loops["epoch_progress"]["current"]["processed"],
        batches=loops["epoch_loop.batch_progress"]["total"]["ready"],
        validation_batches=loops["epoch_loop.val_loop.batch_progress"]["current"]["ready"],
        steps=load_checkpoint(run / LAST_CHECKPOINT, mmap=True)["global_step"],
    )


def _position(last: Path) -> str:
    """Position of a checkpoint in its run."""
    loops = load_checkpoint(last, mmap=True)["loops"]["fit_loop"]
    epoch, batches = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]["current"]["ready"]
    if epoch["ready"] == epoch["processed"]:
        return f"epoch {epoch['processed']}, its end"
    return f"epoch {epoch['processed'] + 1}, batch {batches}"


def _in_folder(root: Path) -> list[str]:
    return [f"--trainer.default_root_dir={root / 'runs'}"]


def _run_folder(root: Path) -> Path | None:
    """The run's folder; ``None`` before it exists. Removes runs that were killed before their first checkpoint."""
    folders = sorted((root / "runs").glob("*/version_*"))
    for folder in folders[:-1]:
        shutil.rmtree(folder)
    return folders[-1] if folders else None


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _take_number(options: list[str], name: str, default: int, least: int, most: int) -> int:
    """Remove ``--name=number`` from the options and return the number."""
    given = [option for option in options if option.startswith(f"--{name}=")]
    for option in given:
        options.remove(option)
    text = given[-1].partition("=")[2] if given else str(default)
    if not text.isdecimal():
        raise UsageError(f"{name}={text!r} is not a whole number. Choose one from {least} to {most}.")
    require_range(name, int(text), least, most)
    return int(text)
