"""Read and write a large JSON object whose members include one long array. Standard library only.

Only one element of the array is in memory at a time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO

BLOCK = 2**20
"""Characters that are read at a time."""

MOST_CHARACTERS = 2**26
"""Maximum length of one value: an element of the array, or a member that is not the array."""


def read_members(file: Path, array: str) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of the object in a file, in their order.

    Args:
        file: UTF-8, with or without a byte order mark.
        array: Key of the long array. Its value is an iterator over the elements, to be used before the next member.

    Raises:
        ValueError: The file is not such an object, has a key twice, a number that is not finite, or a value of more
            than :data:`MOST_CHARACTERS`. The message is part of a sentence, such as "it is not JSON (…)".
    """
    with file.open(encoding="utf-8-sig") as stream:
        text = _Text(stream)
        if text.next_character() != "{":
            raise ValueError("it is not a JSON object")
        seen: set[str] = set()
        for _ in text.separated("{", "}"):
            key = text.value()
            if not isinstance(key, str):
                raise ValueError("it is not JSON (a key that is not text)")
            if key in seen:
                raise ValueError(f"it has the key {key!r} twice")
            seen.add(key)
            text.skip(":")
            if key == array and text.next_character() == "[":
                elements = (text.value() for _ in text.separated("[", "]"))
                yield key, elements
                for _ in elements:
                    pass
            else:
                yield key, text.value()
        if text.next_character():
            raise ValueError("there is text after the JSON object")


def write_members(stream: TextIO, members: Iterable[tuple[str, Any]], array: str) -> None:
    """Write an object, with one line for each member and for each element of the array. Inverse of read_members."""
    separator = "{\n"
    for key, value in members:
        stream.write(f"{separator} {json.dumps(key)}: ")
        separator = ",\n"
        if key != array:
            stream.write(json.dumps(value))
            continue
        between = ""
        stream.write("[")
        for element in value:
            stream.write(f"{between}\n  {json.dumps(element)}")
            between = ","
        stream.write("\n ]")
    stream.write("\n}\n")


_WHITE_SPACE = re.compile(r"[ \t\n\r]*")


class _Text:
    """The text of a stream and a position in it. Only the text from the position on is kept."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._text = ""
        self._position = 0

    def next_character(self) -> str:
        """The next character that is not white space, without taking it; empty at the end."""
        while True:
            self._position = _WHITE_SPACE.match(self._text, self._position).end()  # type: ignore[union-attr]
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._read_more():
                return ""

    def skip(self, expected: str) -> str:
        """Take the next character, which must be one of the expected ones."""
        found = self.next_character()
        if not found:
            raise ValueError("it ends too early")
        if found not in expected:
            raise ValueError(f"it is not JSON ({found!r} instead of {' or '.join(map(repr, expected))})")
        self._position += 1
        return found

    def separated(self, start: str, end: str) -> Iterator[None]:
        """Yield before each element of an array or an object; the caller takes the element."""
        self.skip(start)
        if self.next_character() == end:
            self.skip(end)
            return
        while True:
            yield
            if self.skip("," + end) == end:
                return

    def value(self) -> Any:
        """Take a JSON value."""
        self.next_character()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                if self._read_more():
                    continue
                reason = "it ends too early" if error.pos >= len(self._text) else f"it is not JSON ({error.msg})"
                raise ValueError(reason) from error
            except RecursionError:
                raise ValueError("it is nested too deeply") from None
            if end + len("e+") >= len(self._text) and self._read_more():  # a number may continue
                continue
            self._position = end
            return value

    def _read_more(self) -> bool:
        rest = self._text[self._position :]
        if len(rest) > MOST_CHARACTERS:
            raise ValueError(f"it is not JSON, or has a value of more than {MOST_CHARACTERS:,} characters")
        try:
            more = self._stream.read(max(BLOCK, len(rest)))  # twice as much each time: a long value stays linear
        except UnicodeDecodeError as error:
            raise ValueError("it is not UTF-8") from error
        if more:
            self._text, self._position = rest + more, 0
        return bool(more)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it has the number {constant}, which is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        _refuse(digits)
    return value


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
