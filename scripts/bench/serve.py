"""Compare the speed of the command serve with that of Identifier alone, for one client and for several.

    python -m scripts.bench.serve --model model.onnx --root datasets/animals10/raw-img

Clients send the contents of the same files, one after the other, over loopback; without the server, as many threads, at
most one per core, call ``Identifier.predict``. Rounds of both alternate. Clients and server share the cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from rich import box
from rich.table import Table

from animals_pl import Identifier
from animals_pl.data.cores import available_cores
from animals_pl.data.walk import find_images
from animals_pl.deploy.golden import spread
from animals_pl.files import show

Work = Callable[[Sequence[bytes]], list[float]]
"""Identifies images one after the other and returns the seconds of each."""


@contextmanager
def running_server(model: Path) -> Iterator[tuple[str, int]]:
    """Host and port of a server in another process."""
    command = [sys.executable, "-m", "animals_pl", "serve", str(model), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            parts = urlsplit(process.stdout.readline().split()[0])
            yield parts.hostname or "", parts.port or 0
        finally:
            process.terminate()


def served(address: tuple[str, int], images: Sequence[bytes]) -> list[float]:
    """Send images over one connection."""
    connection, seconds = HTTPConnection(*address), []
    for image in images:
        began = time.perf_counter()
        connection.request("POST", "/identify", image)
        response = connection.getresponse()
        content = response.read()
        seconds.append(time.perf_counter() - began)
        if response.status != 200:
            raise SystemExit(f"status {response.status}: {content[:200]!r}")
    connection.close()
    return seconds


def bare(identifier: Identifier, images: Sequence[bytes]) -> list[float]:
    """Identify images in this thread."""
    seconds = []
    for image in images:
        began = time.perf_counter()
        identifier.predict(image, top_k=5)
        seconds.append(time.perf_counter() - began)
    return seconds


def one_round(work: Work, images: Sequence[bytes], clients: int) -> tuple[float, list[float]]:
    """Images per second of all clients together, and the seconds of each image."""
    with ThreadPoolExecutor(clients) as pool:
        began = time.perf_counter()
        seconds = [one for part in pool.map(work, [images[start::clients] for start in range(clients)]) for one in part]
        return len(images) / (time.perf_counter() - began), seconds


def main(args: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="exported file")
    parser.add_argument("--root", type=Path, required=True, help="folder of images")
    parser.add_argument("--images", type=int, default=400, help="images per round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(args)
    images = [path.read_bytes() for path in spread(find_images(options.root), options.images)]
    identifier = Identifier(options.model, threads=1)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("clients", "Identifier, images/s", "serve, images/s", "ratio", "p50, ms", "p99, ms"):
        table.add_column(column)
    with running_server(options.model) as address:
        for clients in (1, 8):
            # More threads than cores would only wait for each other.
            threads = min(clients, available_cores())
            rounds = [
                (
                    one_round(lambda part: bare(identifier, part), images, threads)[0],
                    *one_round(lambda part: served(address, part), images, clients),
                )
                for _ in range(options.rounds)
            ]
            alone, together = (float(np.median([one[column] for one in rounds])) for column in (0, 1))
            p50, p99 = 1000 * np.quantile(np.concatenate([one[2] for one in rounds]), [0.5, 0.99])
            ratio = float(np.median([one[1] / one[0] for one in rounds]))
            table.add_row(str(clients), f"{alone:.0f}", f"{together:.0f}", f"{ratio:.0%}", f"{p50:.1f}", f"{p99:.1f}")
    show(table)


if __name__ == "__main__":
    main()
