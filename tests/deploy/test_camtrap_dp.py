"""Camtrap DP packages: frictionless accepts them, and their values are those of the images and the user's table."""

from __future__ import annotations

import csv
import json
import os
import shutil
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest
from classify_calls import classify, refused
from PIL import Image

from animals_pl import Identifier
from animals_pl.deploy import camtrap_dp, deployments, output_formats
from animals_pl.deploy.taxa import taxon_of

SCHEMAS = Path(__file__).with_name("camtrap_dp")


class Vendored:
    """Serves profile and schemas instead of the network."""

    def __init__(self) -> None:
        self.urls: list[str] = []

    def get(self, url: str, **options: object) -> SimpleNamespace:
        frictionless = pytest.importorskip("frictionless")
        self.urls.append(url)
        folder = Path(frictionless.__file__).parent / "assets/profiles" if "geojson" in url else SCHEMAS
        content = (folder / url.rpartition("/")[2]).read_bytes()
        raw = SimpleNamespace(read=lambda size: content)
        return SimpleNamespace(raw=raw, raise_for_status=lambda: None, close=lambda: None)


def problems(package: Path) -> list[str]:
    """What frictionless finds in a package, with its profile and schemas."""
    frictionless = pytest.importorskip("frictionless")
    session = Vendored()
    with frictionless.system.use_context(http_session=session, trusted=True):
        report = frictionless.validate(str(package / "datapackage.json"))
    assert f"{camtrap_dp.SOURCE}camtrap-dp-profile.json" in session.urls
    return [str(error) for error in report.flatten(["resource", "rowNumber", "fieldName", "note"])]


def shoot(file: Path, source: Path, date: str | None = None) -> None:
    """Write an image with a date, as a camera does."""
    exif = Image.Exif()
    if date:
        exif[0x010F] = "RECONYX"
        exif.get_ifd(0x8769)[0x9003] = date
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.open(source).save(file, exif=exif)


@pytest.fixture
def card(tiny_tree, tmp_path) -> Path:
    """Two stations: four images with dates before and after the change to summer time; one without, one broken."""
    images = sorted(tiny_tree.rglob("*.jpg"))[::9]
    dates = ["2024:03:30 12:00:00", "2024:03:30 12:00:20", "2024:03:31 12:00:00", "2024:03:31 12:00:31"]
    for number, date in enumerate(dates):
        shoot(tmp_path / "card" / f"S{number // 2}" / f"IMG_{number}.jpg", images[number], date)
    shoot(tmp_path / "card/S1/undated.jpg", images[4])
    os.utime(tmp_path / "card/S1/undated.jpg", (1_711_900_000, 1_711_900_000))
    (tmp_path / "card/S1/zbroken.jpg").write_text("not an image")
    return tmp_path / "card"


def package(model: Path, card: Path, *args: object) -> Path:
    output = card.parent / "package"
    shutil.rmtree(output, ignore_errors=True)
    common = ["--format", "camtrap-dp", "--output", output]
    assert classify(model, card, *common, *args) == 0
    return output


def read(package: Path, name: str) -> list[dict[str, str]]:
    with (package / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def write_table(folder: Path, text: str) -> Path:
    file = folder / "deployments.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_every_column_is_there_in_order():
    columns = {
        "deployments": deployments.COLUMNS,
        "media": camtrap_dp.MEDIA_COLUMNS,
        "observations": camtrap_dp.OBSERVATION_COLUMNS,
    }
    for name, given in columns.items():
        schema = json.loads((SCHEMAS / f"{name}-table-schema.json").read_text())
        assert [field["name"] for field in schema["fields"]] == [*given]


@pytest.mark.parametrize("args", [[], ["--sequence", "30s"], ["--threshold", 1], ["--top_k", 1]])
def test_frictionless_accepts_a_package(model, card, args):
    assert problems(package(model, card, "--timezone", "Europe/Rome", *args)) == []


def test_frictionless_finds_what_is_wrong(model, card):
    """The check above can fail: a type, a foreign key, and the profile."""
    folder = package(model, card, "--timezone", "+02:00")
    whole = (folder / "media.csv").read_text()
    for old, new in {"+02:00": "", ",false,": ",perhaps,", "image/jpeg": "jpeg", "PLACEHOLDER S0": "S9"}.items():
        (folder / "media.csv").write_text(whole.replace(old, new))
        assert problems(folder), old
    (folder / "media.csv").write_text(whole)
    descriptor = (folder / "datapackage.json").read_text()
    (folder / "datapackage.json").write_text(descriptor.replace('"opportunistic"', '"random"'))
    assert "is not one of" in str(problems(folder))


def test_one_medium_and_one_observation_for_each_image(model, card):
    folder = package(model, card, "--timezone", "Europe/Rome")
    media, observations = read(folder, "media"), read(folder, "observations")
    names = ["S0/IMG_0.jpg", "S0/IMG_1.jpg", "S1/IMG_2.jpg", "S1/IMG_3.jpg", "S1/undated.jpg", "S1/zbroken.jpg"]
    assert [one["filePath"] for one in media] == names
    assert [one["mediaID"] for one in media] == [one["mediaID"] for one in observations]
    assert [one["timestamp"] for one in media[:5]] == [
        "2024-03-30T12:00:00+01:00",
        "2024-03-30T12:00:20+01:00",
        "2024-03-31T12:00:00+02:00",
        "2024-03-31T12:00:31+02:00",
        datetime.fromtimestamp(1_711_900_000, ZoneInfo("Europe/Rome")).isoformat(),
    ]
    assert ["PLACEHOLDER: no date" in one["mediaComments"] for one in media] == [False] * 4 + [True] * 2
    assert media[5]["mediaComments"].startswith("not an image in a supported format; ")
    identifier = Identifier(model)
    for medium, observation in zip(media[:5], observations[:5], strict=True):
        (expected,) = identifier.predict(card / medium["filePath"])
        english = dict(zip(identifier.class_names, identifier.metadata.english_names, strict=True))[expected.label]
        assert observation["scientificName"] == taxon_of(english).scientific_name
        assert float(observation["classificationProbability"]) == pytest.approx(expected.probability, abs=1e-5)
        assert (observation["observationType"], observation["classificationMethod"]) == ("animal", "machine")
        assert identifier.metadata.sha256[:12] in observation["classifiedBy"]
    assert (observations[5]["observationType"], observations[5]["classificationMethod"]) == ("unclassified", "")
    taxonomic = json.loads((folder / "datapackage.json").read_text())["taxonomic"]
    used = {one["scientificName"] for one in observations} - {""}
    assert {one["scientificName"] for one in taxonomic} == used


def test_images_below_the_threshold_are_unknown(model, card):
    observations = read(package(model, card, "--timezone", "Europe/Rome", "--threshold", 1), "observations")
    assert observations[5]["observationType"] == "unclassified"
    below = [one for one in observations[:5] if one["observationType"] != "animal"]
    assert len(below) > 1  # the others have a probability of 1
    assert {(one["observationType"], one["scientificName"]) for one in below} == {("unknown", "")}
    assert all(one["observationComments"].startswith("review: ") for one in below)
    others = [one for one in observations[:5] if one not in below]
    assert all(float(one["classificationProbability"]) == 1 for one in others)


def test_sequences_are_events(model, card):
    folder = package(model, card, "--timezone", "Europe/Rome", "--sequence", "30s")
    found = [(one["eventID"], one["eventStart"][11:19], one["eventEnd"][11:19]) for one in read(folder, "observations")]
    assert found[:4] == [
        ("1", "12:00:00", "12:00:20"),
        ("1", "12:00:00", "12:00:20"),
        ("2", "12:00:00", "12:00:00"),
        ("3", "12:00:31", "12:00:31"),
    ]


def test_deployments_of_the_user_and_placeholders(model, card, capsys):
    table = write_table(
        card.parent,
        "folder,deploymentID,latitude,longitude,deploymentStart,locationName\n"
        "S0,dep0,41.9,12.5,2024-03-01T10:00:00,Bosco\n",
    )
    folder = package(model, card, "--timezone", "Europe/Rome", "--deployments", table)
    assert "coordinates are placeholders in 1 of 2 deployments" in capsys.readouterr().err
    placeholder, own = read(folder, "deployments")
    assert own["deploymentID"] == "dep0" and (own["latitude"], own["longitude"]) == ("41.9", "12.5")
    assert own["deploymentStart"] == "2024-03-01T10:00:00+01:00" and own["deploymentEnd"] == "2024-03-30T12:00:20+01:00"
    assert (own["locationName"], own["deploymentComments"], own["timestampIssues"]) == ("Bosco", "", "")
    assert placeholder["deploymentID"] == "PLACEHOLDER S1" and placeholder["coordinateUncertainty"] == "20037508"
    assert placeholder["deploymentComments"].startswith("PLACEHOLDER") and placeholder["timestampIssues"] == "true"
    assert [one["deploymentID"] for one in read(folder, "media")] == ["dep0"] * 2 + ["PLACEHOLDER S1"] * 4
    assert problems(folder) == []


def test_a_deployment_covers_the_folders_below_its_own(model, card):
    table = write_table(card.parent, f"folder,deploymentID,latitude,longitude\n{card},all,1,2\nS1/,one,-1,-2\n")
    folder = package(model, card, "--timezone", "Z", "--deployments", table)
    assert [one["deploymentID"] for one in read(folder, "media")] == ["all"] * 6
    table = write_table(card.parent, "folder,deploymentID,latitude,longitude\n.,all,1,2\nS1/,one,-1,-2\n")
    folder = package(model, card, "--timezone", "Z", "--deployments", table)
    assert [one["deploymentID"] for one in read(folder, "media")] == ["all"] * 2 + ["one"] * 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks the column 'folder'"),
        ("folder,deploymentID,latitude\n", "lacks the column 'longitude'"),
        ("folder,deploymentID,latitude,longitude,habitt\n", "Did you mean 'habitat'"),
        ("folder,deploymentID,latitude,longitude\nS0,a,91,0\n", "line 2 has latitude='91'"),
        ("folder,deploymentID,latitude,longitude\nS0,a,1,nan\n", "line 2 has longitude='nan'"),
        ("folder,deploymentID,latitude,longitude\nS0,a,,0\n", "line 2 lacks latitude"),
        ("folder,deploymentID,latitude,longitude\nS0,a,1,2,3\n", "line 2 has more cells"),
        ("folder,deploymentID,latitude,longitude\nS0,a,1,2\nS0,b,1,2\n", "line 3 repeats a folder"),
        ("folder,deploymentID,latitude,longitude\nS0,a,1,2\nS1,a,1,3\n", "line 3 repeats a folder, or a deploymentID"),
        ("folder,deploymentID,latitude,longitude,deploymentEnd\nS0,a,1,2,May\n", "deploymentEnd='May', not a date"),
    ],
)
def test_a_wrong_table_is_one_line(model, card, capsys, text, message):
    table = write_table(card.parent, text)
    args = ["--format", "camtrap-dp", "--timezone", "Z", "--output", card.parent / "package", "--deployments", table]
    assert message in refused(capsys, model, card, *args)
    assert not (card.parent / "package").exists()


def test_wrong_use_is_one_line(model, card, tmp_path, capsys):
    out = ["--output", tmp_path / "package", "--format", "camtrap-dp"]
    assert "timezone is missing" in refused(capsys, model, card, *out)
    for zone in ("Rome", "+25:00", "2", "../etc/passwd", "Europe"):
        assert "is not known. Pass a name" in refused(capsys, model, card, *out, "--timezone", f'"{zone}"')
    assert "exists and is not an empty folder" in refused(
        capsys, model, card, "--output", card, "--format", "camtrap-dp", "--timezone", "Z"
    )
    table = ["--output", tmp_path / "out.csv"]
    assert "timezone only applies to format=camtrap-dp" in refused(capsys, model, card, *table, "--timezone", "Z")
    assert "deployments only applies to" in refused(capsys, model, card, *table, "--deployments", "a.csv")


@pytest.mark.parametrize(
    "name", [b"latin-\xe4.jpg", b"a..b.jpg", b"~a.jpg", b".hidden.jpg", b"new\nline.jpg", b"ok.jpg"]
)
def test_odd_names_are_valid_paths(model, card, tmp_path, name, monkeypatch):
    folder = tmp_path / "odd"
    folder.mkdir()
    shutil.copy(card / "S0/IMG_0.jpg", folder / os.fsdecode(name))
    monkeypatch.chdir(folder)
    out = tmp_path / "package"
    args = ["--format", "camtrap-dp", "--timezone", "Z", "--output", out]
    assert classify(model, *args, "--", os.fsdecode(name)) == 0
    (medium,) = read(out, "media")
    assert medium["filePath"].startswith("file:///") == (name != b"ok.jpg")
    assert problems(out) == []


def test_an_interrupted_package_is_continued(model, card, monkeypatch):
    out = card.parent / "package"
    args = [model, card, "--format", "camtrap-dp", "--timezone", "Z", "--output", out]
    with monkeypatch.context() as patch:
        patch.setattr(camtrap_dp, "_write_csv", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt()))
        assert classify(*args) == 130
    assert sorted(path.name for path in card.parent.iterdir()) == ["card", "package.rows.jsonl"]
    assert classify(*args, "--resume") == 0
    assert sorted(path.name for path in card.parent.iterdir()) == ["card", "package"]
    assert len(read(out, "media")) == 6


def test_formats_have_writers():
    assert {*output_formats.WRITERS} == {"megadetector", "camtrap-dp"}
