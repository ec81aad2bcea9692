"""CSV files: as people leave them, and whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from unicodedata import normalize

import pandas as pd
import pytest

from animals_pl.data.tables import read_image_rows, read_rows, write_table
from animals_pl.errors import UsageError

ODD_BYTES = os.fsdecode(b"cane/\xff\xfe latin \xe9.jpg")
"""A file name that is no UTF-8, as Python hands it out."""

NAMES = ["a/com,ma.jpg", 'a/"quoted".jpg', "a/nüß 犬.jpg", "a/two\nlines.jpg", "a/ blank .jpg", ODD_BYTES]


def refusal(file) -> str:
    with pytest.raises(UsageError) as caught:
        read_rows(file, "data.exclude")
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_rows_are_read_with_and_without_a_byte_order_mark(tmp_path, mark, end):
    file = tmp_path / "table.csv"
    file.write_bytes(mark + end.join([b"path,reason", b'a.jpg,"blurred, dark"', b"b.jpg,", b""]))
    assert read_rows(file, "x") == [
        {"path": "a.jpg", "reason": "blurred, dark"},
        {"path": "b.jpg", "reason": ""},
    ]


@pytest.mark.parametrize("delimiter", [";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_of_spreadsheets_are_read(tmp_path, delimiter, encoding):
    file = tmp_path / "table.csv"
    text = f'path{delimiter}"reason"\r\nü, 1.jpg{delimiter}blurred, dark\r\n'
    file.write_bytes(text.encode(encoding))
    assert read_rows(file, "x", "path", "reason") == [{"path": "ü, 1.jpg", "reason": "blurred, dark"}]


def test_commas_come_first(tmp_path):
    (tmp_path / "table.csv").write_text("path,a;b\n1;2.jpg,3\n")
    assert read_rows(tmp_path / "table.csv", "x", "path") == [{"path": "1;2.jpg", "a;b": "3"}]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_line_of_excel_that_names_the_delimiter_is_skipped(tmp_path, mark, delimiter):
    lines = [f"{mark}sep={delimiter}", f"path{delimiter}note", f"a.jpg{delimiter}x", ""]
    (tmp_path / "table.csv").write_bytes("\r\n".join(lines).encode())
    assert read_rows(tmp_path / "table.csv", "x", "path") == [{"path": "a.jpg", "note": "x"}]


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("Path;Label;SPLIT", ["path", "label", "split"]),
        (" path ; label ;x", ["path", "label", "x"]),
        ("path;Path;PATH", ["path", "Path", "PATH"]),
        ("PATH;Path;label", ["path", "Path", "label"]),
    ],
)
def test_columns_are_found_in_any_case(tmp_path, header, columns):
    (tmp_path / "table.csv").write_text(f"{header}\na,1;b;c\n")
    assert read_rows(tmp_path / "table.csv", "x", "path") == [dict(zip(columns, ["a,1", "b", "c"], strict=True))]


@pytest.mark.parametrize(
    "written",
    [
        "cane/ü 1.jpg",
        "./cane//ü 1.jpg",
        normalize("NFD", "cane/ü 1.jpg"),
        "cane\\ü 1.jpg",
        "ROOT/cane/ü 1.jpg",
        "LINK/cane/ü 1.jpg",
        "ROOT\\cane\\" + normalize("NFD", "ü 1.jpg"),
        "set/cane/ü 1.jpg",
        "cane/ü 1.jpg".encode("cp1252").decode(errors="surrogateescape"),
    ],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("through", ["set", "link"])
def test_paths_are_those_of_the_dataset(tmp_path, monkeypatch, written, form, through):
    (tmp_path / "set").mkdir()
    (tmp_path / "link").symlink_to("set")
    here = normalize(form, "cane/ü 1.jpg")
    written = written.replace("ROOT", str(tmp_path / "set")).replace("LINK", str(tmp_path / "link"))
    write_table(pd.DataFrame({"path": [written, "", "cane/other.jpg"]}), tmp_path / "table.csv")
    monkeypatch.chdir(tmp_path)
    rows = read_image_rows(Path("table.csv"), "x", Path(through), ["cane/1.jpg", here])
    assert [row["path"] for row in rows] == [here, "", "cane/other.jpg"]


def test_the_exact_path_comes_first(tmp_path):
    known = [normalize(form, "a/ü.jpg") for form in ("NFC", "NFD")] + ["a\\b.jpg", "a/b.jpg", ODD_BYTES]
    write_table(pd.DataFrame({"path": known}), tmp_path / "table.csv")
    assert [row["path"] for row in read_image_rows(tmp_path / "table.csv", "x", tmp_path, known)] == known


@pytest.mark.parametrize("content", [b"", b"path,reason\n"])
def test_a_table_without_rows_is_empty(tmp_path, content):
    (tmp_path / "table.csv").write_bytes(content)
    assert read_rows(tmp_path / "table.csv", "x") == []


@pytest.mark.parametrize("name", ["absent.csv", "."])
def test_a_missing_file_is_named_with_its_argument(tmp_path, name):
    message = refusal(tmp_path / name)
    assert f"data.exclude={str(tmp_path / name)!r} is not a file" in message
    assert "remove data.exclude" in message


def test_a_file_that_is_no_table_is_refused(tmp_path):
    file = tmp_path / "table.csv"
    file.write_bytes(b"path\n" + b"x" * 200_000)  # longer than any cell may be
    message = refusal(file)
    assert f"data.exclude={str(file)!r} cannot be read as CSV (" in message
    assert "Save it as UTF-8 text" in message


# ---------------------------------------------------------------- writing


def test_names_of_any_bytes_survive(tmp_path):
    file = tmp_path / "table.csv"
    write_table(pd.DataFrame({"path": NAMES, "number": range(len(NAMES))}), file)
    assert [row["path"] for row in read_rows(file, "x")] == NAMES
    assert [row["number"] for row in read_rows(file, "x")] == [str(number) for number in range(len(NAMES))]
    assert os.fsencode(ODD_BYTES) in file.read_bytes()
    assert [found.name for found in tmp_path.iterdir()] == ["table.csv"]


def test_a_table_replaces_an_older_one(tmp_path):
    file = tmp_path / "table.csv"
    file.write_text("older\n" * 1000)
    write_table(pd.DataFrame({"path": ["new.jpg"]}), file)
    assert file.read_text() == "path\nnew.jpg\n"


class Interrupted:
    """A cell that cannot be written."""

    def __str__(self) -> str:
        raise KeyboardInterrupt


@pytest.mark.parametrize("old", [None, "path\nold.jpg\n"])
def test_an_interrupted_writing_leaves_what_was_there(tmp_path, old):
    file = tmp_path / "table.csv"
    if old:
        file.write_text(old)
    table = pd.DataFrame({"path": ["first.jpg"] * 200_000 + [Interrupted()]})
    with pytest.raises(KeyboardInterrupt):
        write_table(table, file)
    assert (file.read_text() if file.exists() else None) == old


def test_rows_of_any_length_have_the_columns_of_the_first_line(tmp_path):
    file = tmp_path / "table.csv"
    file.write_text("path,reason\nshort\nlong,why,and,more\n", encoding="utf-8")
    assert read_rows(file, "x") == [{"path": "short", "reason": ""}, {"path": "long", "reason": "why"}]


@pytest.mark.parametrize(
    "content",
    ["path\n1.jpg\n".encode("utf-16-le"), b"\xff\xfepath\n", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00"],
    ids=["UTF-16 without a mark", "half a character", "JPEG"],
)
def test_what_is_no_text_is_refused(tmp_path, content):
    file = tmp_path / "table.csv"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"data\.x='.*table\.csv' cannot be read as CSV .* Save it as UTF-8 text"):
        read_rows(file, "data.x")


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path):
    file = tmp_path / "table.csv"
    file.write_text("paht,reason\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"has no column 'path'\. Did you mean 'paht'\? It has paht, reason"):
        read_rows(file, "data.x", "path")
