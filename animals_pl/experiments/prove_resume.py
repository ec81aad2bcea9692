"""Prove that a run that is killed and resumed equals an uninterrupted run."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from animals_pl.errors import UsageError, counted, require_range
from animals_pl.experiments.killed_fit import Moment, Phase, fit_session
from animals_pl.experiments.same_result import Comparison, compare_runs
from animals_pl.training.checkpoint import LAST_CHECKPOINT, load_checkpoint

RUNS = "runs"
"""Subfolder that all sessions of a run write to."""

PHASES: dict[Phase, int] = {"training": 5, "validation": 2, "save": 3}
"""Phase → its weight in the random choice."""

MAX_DELAY = 0.05
"""Maximum seconds from the start of a batch or a save to the kill."""

MAX_LISTED = 10
"""Maximum number of differences listed."""

LAYOUT = "{:>4}  {:>3}  {:<10}  {:<25}  {}"


@dataclass(frozen=True)
class Length:
    """Length of the uninterrupted run: epochs, and batches and steps in total."""

    epochs: int
    batches: int
    validation_batches: int
    steps: int


def prove_resume(config: str, kills: int = 25, kill_seed: int = 0, options: list[str] | None = None) -> None:
    """Prove that a run that is killed and resumed equals an uninterrupted one.

    A configuration is trained once uninterrupted. Then it is trained in processes that are killed (SIGKILL) at random
    moments, in a training batch, in a validation or while a checkpoint is saved, and resumed. The last checkpoints,
    refit.ckpt, metrics.csv and the TensorBoard scalars are compared bit by bit. If a killed run ends before all kills
    have happened, it is compared, and another is started. Everything is written to a temporary folder, with a cache of
    its own, and removed. If a run differs, the exit code is 1.

    Args:
        config: The configuration, a file or a name in configs.
        kills: Number of kills, 1 or more.
        kill_seed: Seed of the random moments of the kills.
        options: Further options of fit, after ``--``. Without save_every, a checkpoint is saved three times per
            epoch.

    Raises:
        UsageError: An option is invalid, or a run fails.
        SystemExit: A resumed run differs.
    """
    require_range("kills", kills, 1, 10_000)
    require_range("kill_seed", kill_seed, 0, 2**32 - 1)
    fit_options = ["--config", config, *(options or [])]
    with TemporaryDirectory(prefix="prove-resume-") as name:
        folder = Path(name)
        length = _train_uninterrupted(fit_options, folder / "uninterrupted")
        if not any(option.partition("=")[0] == "--save_every" for option in fit_options):
            fit_options += ["--save_every", f"{max(1, length.steps // max(1, length.epochs) // 3)}steps"]
        print(LAYOUT.format("kill", "run", "during", "killed at", "resumed from"))
        moments = _moments(random.Random(kill_seed), kills, length)
        done, runs, equal = 0, 0, True
        while done < kills:
            runs += 1
            root = folder / f"killed{runs}"
            for kill in _train_with_kills(fit_options, root, islice(moments, kills - done)):
                done += 1
                print(LAYOUT.format(done, runs, *kill), flush=True)
            equal = _report(compare_runs(_run_folder(folder / "uninterrupted"), _run_folder(root)), runs) and equal
            shutil.rmtree(root)
    print(f"{counted(done, 'kill')}, {counted(runs, 'run')}: {'equal' if equal else 'NOT EQUAL'}")
    if not equal:
        raise SystemExit(1)


def _train_uninterrupted(options: list[str], root: Path) -> Length:
    """Train once, and return the length of the run."""
    root.mkdir()
    fit_session([*options, *_in_folder(root)], root)
    if not list(root.rglob(LAST_CHECKPOINT)):
        raise UsageError("fit left no last.ckpt. Remove trainer.fast_dev_run and trainer.enable_checkpointing=false.")
    length = _length(_run_folder(root))
    print(f"uninterrupted run: {counted(length.epochs, 'epoch')}, {length.batches:,} batches", flush=True)
    return length


def _train_with_kills(options: list[str], root: Path, moments: Iterator[Moment]) -> Iterator[tuple[str, str, str]]:
    """Train one run to its end. Yield each killed session's phase and position, and where the next one starts."""
    root.mkdir()
    args, _ = _next_session(options, root)
    while kill := fit_session(args, root, next(moments, None)):
        args, origin = _next_session(options, root)
        yield kill.phase, f"epoch {kill.epoch}, batch {kill.batch}", origin


def _next_session(options: list[str], root: Path) -> tuple[list[str], str]:
    """Options of the next session of a run, and the position that it starts from."""
    runs = root / RUNS
    if not any(runs.rglob("*.ckpt")):
        shutil.rmtree(runs, ignore_errors=True)
        return [*options, *_in_folder(root)], "the start"
    run = _run_folder(root)
    last = run / LAST_CHECKPOINT
    position = _position(last) if last.exists() else "best.ckpt"
    return [f"--config={run / 'config.yaml'}", f"--ckpt_path={last}"], position


def _moments(rng: random.Random, kills: int, length: Length) -> Iterator[Moment]:
    """Yield random moments for kills indefinitely, chosen so that most kills fit into one run."""
    most: dict[Phase, int] = {
        "training": max(2, 2 * length.batches // kills),
        "validation": length.validation_batches,
        "save": 3,
    }
    phases = [phase for phase in PHASES if most[phase]]
    while True:
        (phase,) = rng.choices(phases, [PHASES[phase] for phase in phases])
        yield Moment(phase, rng.randint(1, most[phase]), rng.uniform(0, MAX_DELAY))


def _report(compared: Comparison, number: int) -> bool:
    """Print the result of a comparison, and return whether the runs are equal."""
    counts = {"tensor": compared.tensors, "epoch": compared.epochs, "curve": compared.curves}
    what = ", ".join(counted(count, noun) for noun, count in counts.items())
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
        return f"end of epoch {epoch['processed']}"
    return f"epoch {epoch['processed'] + 1}, batch {batches}"


def _in_folder(root: Path) -> list[str]:
    return [f"--trainer.default_root_dir={root / RUNS}"]


def _run_folder(root: Path) -> Path:
    (folder,) = (root / RUNS).glob("*/version_*")
    return folder
