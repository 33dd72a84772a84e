"""Before an evaluation is submitted: is every set on disk, as clip_benchmark will read it?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clipctl.dataset.benchmarks import SUITES, lacking
from trainer.evaluation import folder_of

FILES = ("test/nshards.txt", "test/0.tar", "test/1.tar", "classnames.txt", "zeroshot_classification_templates.txt")


def lay(data: Path, name: str, kind: str = "") -> Path:
    folder = folder_of(data, name)
    (folder / "test").mkdir(parents=True)
    for file in FILES if kind != "retrieval" else FILES[:3]:
        (folder / file).write_text("2\n")
    if kind:
        (folder / "dataset_type.txt").write_text(f"{kind}\n")
    return folder


def test_what_is_whole_lacks_nothing(tmp_path: Path) -> None:
    lay(tmp_path, "vtab/dtd")
    lay(tmp_path, "voc2007_multilabel", "multilabel")
    lay(tmp_path, "mscoco_captions", "retrieval")
    assert lacking(tmp_path, ("vtab/dtd", "voc2007_multilabel", "mscoco_captions")) == ()
    assert (tmp_path / "wds_vtab-dtd").is_dir()  # as clip_benchmark's own are called on their hub


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_not_there_is_named(file: str, tmp_path: Path) -> None:
    (lay(tmp_path, "cars") / file).unlink()
    (line,) = lacking(tmp_path, ("cars",))
    assert line.startswith(f"cars: {tmp_path}/wds_cars/{file} is not there")


@pytest.mark.parametrize("text", ["", "0", "many", "-1", "1.5"])
def test_a_number_of_shards_must_be_one(text: str, tmp_path: Path) -> None:
    (lay(tmp_path, "cars") / "test" / "nshards.txt").write_text(text)
    (line,) = lacking(tmp_path, ("cars",))
    assert line.endswith(f"nshards.txt says {text!r}, which is no number of shards")


def test_each_missing_set_is_a_line(tmp_path: Path) -> None:
    lay(tmp_path, "mnist")
    lines = lacking(tmp_path, SUITES["vtab+"])
    assert len(lines) == 35
    assert lines[0] == f"imagenet1k: {tmp_path}/wds_imagenet1k is not there"


Spoilt = Callable[[Path], Path]


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        (lambda path: path / "nowhere", "is no folder that is there"),
        (lambda path: path / "{a,b}", "must be without { and }, which webdataset takes for a pattern"),
    ],
)
def test_a_folder_that_cannot_be_one_is_told_once(spoilt: Spoilt, said: str, tmp_path: Path) -> None:
    data = spoilt(tmp_path)
    lines = lacking(data, SUITES["card"])
    assert len(lines) == 1 and lines[0].startswith(f"{data}: {said}")
