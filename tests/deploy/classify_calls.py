"""Call the command classify in this process."""

from __future__ import annotations

from animals_pl.cli import main


def classify(*args: object) -> int:
    """Run the command and return its exit code."""
    return main(["classify", *map(str, args)])


def refused(capsys, *args: object) -> str:
    """Run a command with wrong options and return its one-line message."""
    assert classify(*args) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("animals_pl classify: error: ")
    return line
