"""An evaluation job: LAION's clip_benchmark on real files, and its numbers again by loops that a reader can check."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import average_precision_score
from torch.nn.functional import normalize

from clipctl.dataset.benchmarks import SUITES
from tests.trainer.benchmark_sets import (
    NAMES,
    TEMPLATES,
    asked,
    captioned,
    classified,
    digits_of,
    publish,
    several,
    write_set,
)
from trainer import benchmark
from trainer.compose import open_image
from trainer.contract import ExitCode
from trainer.evaluation import RESULTS_FILE, Result, parsed

# webdataset leaves the shards that it read to the garbage collector, which closes them; in a job, its end does.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

Asked = Callable[..., Path]


@dataclass
class Model:
    """The job's own, asked about one picture or text at a time."""

    scorer: Any

    def picture(self, png: bytes) -> torch.Tensor:
        with torch.no_grad():
            return normalize(self.scorer._model.encode_image(self.scorer._transform(open_image(png))[None]), dim=-1)[0]

    def text(self, text: str) -> torch.Tensor:
        with torch.no_grad():
            return normalize(self.scorer._model.encode_text(self.scorer._tokenizer([text])), dim=-1)[0]

    def prompt(self, name: str) -> torch.Tensor:
        return normalize(sum(self.text(template.format(c=name)) for template in TEMPLATES), dim=-1)  # type: ignore[arg-type]


def model_of(folder: Path) -> Model:
    from trainer.scores import Scorer

    evaluation = benchmark.read(folder)
    return Model(Scorer(evaluation.train, folder.parent.parent / evaluation.checkpoint, batch_size=16))


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "sets"


@pytest.fixture
def evaluation(tmp_path: Path, data: Path, digits: Path) -> Asked:
    return lambda *datasets: asked(tmp_path, data, *datasets, digits=digits)


def results(folder: Path) -> tuple[Result, ...]:
    return parsed((folder / RESULTS_FILE).read_text())


def test_top_1_and_top_5_are_those_of_a_loop_to_the_sample(evaluation: Asked, data: Path, digits: Path) -> None:
    pictures = digits_of(digits)[::3]
    classified(data, "digits", pictures)
    folder = evaluation("digits")
    assert benchmark.main([str(folder)]) == ExitCode.COMPLETED
    (found,) = results(folder)

    model = model_of(folder)
    prompts = [model.prompt(name) for name in NAMES]
    first, among, by_class, chosen = 0, 0, {digit: [0, 0] for digit in range(10)}, set()
    for png, digit in pictures:
        scores = [float(model.picture(png) @ prompt) for prompt in prompts]
        best = sorted(range(10), key=lambda index: -scores[index])[:5]
        first, among = first + (best[0] == digit), among + (digit in best)
        chosen.add(best[0])
        by_class[digit] = [by_class[digit][0] + (best[0] == digit), by_class[digit][1] + 1]
    recall = sum(right / count for right, count in by_class.values()) / 10
    assert found.samples == len(pictures)
    assert 0 < first < among < len(pictures) and len(chosen) > 3  # so that a mistake would show
    assert round(found.metrics["acc1"] * len(pictures), 6) == first
    assert round(found.metrics["acc5"] * len(pictures), 6) == among
    assert found.metrics["mean_per_class_recall"] == pytest.approx(recall)


def test_recall_is_that_of_a_loop_to_the_sample(evaluation: Asked, data: Path, digits: Path) -> None:
    """Several captions a picture: a caption finds its picture, and a picture any of its captions."""
    pictures = digits_of(digits)[:60]
    captions = captioned(data, "pairs", pictures)
    folder = evaluation("pairs")
    assert benchmark.main([str(folder)]) == ExitCode.COMPLETED
    (found,) = results(folder)

    model = model_of(folder)
    images = [model.picture(png) for png, _ in pictures]
    texts = [(index, model.text(caption)) for index, own in enumerate(captions) for caption in own]
    for k in (1, 5, 10):
        by_text = [index in nearest([float(text @ image) for image in images], k) for index, text in texts]
        by_image = [
            any(texts[place][0] == index for place in nearest([float(text @ image) for _, text in texts], k))
            for index, image in enumerate(images)
        ]
        assert round(found.metrics[f"image_retrieval_recall@{k}"] * len(texts), 3) == sum(by_text)
        assert round(found.metrics[f"text_retrieval_recall@{k}"] * len(images), 3) == sum(by_image)
    assert 0 < sum(by_text) < len(texts) and 0 < sum(by_image) < len(images) == found.samples


def nearest(scores: Sequence[float], k: int) -> list[int]:
    return sorted(range(len(scores)), key=lambda index: -scores[index])[:k]


def test_of_several_labels_it_is_the_mean_average_precision(evaluation: Asked, data: Path, digits: Path) -> None:
    pictures = digits_of(digits)[::5]
    labels = several(data, "vtab/many", pictures)
    folder = evaluation("vtab/many")
    assert benchmark.main([str(folder)]) == ExitCode.COMPLETED
    (found,) = results(folder)
    model = model_of(folder)
    prompts = torch.stack([model.prompt(name) for name in NAMES])
    scores = torch.stack([prompts @ model.picture(png) for png, _ in pictures])
    expected = sum(
        average_precision_score([row[index] for row in labels], scores[:, index].numpy()) for index in range(10)
    )
    assert found.metrics == {"mean_average_precision": pytest.approx(expected / 10, abs=1e-4)}


def test_one_damaged_set_costs_only_itself(evaluation: Asked, data: Path, digits: Path, capsys: Any) -> None:
    pictures = digits_of(digits)[::18]
    classified(data, "whole", pictures)
    classified(data, "damaged", [*pictures, (b"no picture", 3)])
    folder = evaluation("damaged", "whole")
    assert benchmark.main([str(folder)]) == ExitCode.CRASHED
    damaged, whole = results(folder)
    assert (damaged.metrics, whole.error) == ({}, "")
    assert "cannot identify image" in damaged.error and "\n" not in damaged.error
    assert whole.metrics.keys() == {"acc1", "acc5", "mean_per_class_recall"} and whole.samples == len(pictures)


def test_a_set_of_few_classes_has_no_top_5(evaluation: Asked, data: Path, digits: Path) -> None:
    pictures = [(png, digit) for png, digit in digits_of(digits) if digit < 3][:30]
    samples = [{"png": png, "cls": str(digit).encode()} for png, digit in pictures]
    few = {"classnames.txt": "zero\none\ntwo", "zeroshot_classification_templates.txt": "a {c}"}
    write_set(data, "few", samples, files=few)
    folder = evaluation("few")
    assert benchmark.main([str(folder)]) == ExitCode.COMPLETED
    assert results(folder)[0].metrics.keys() == {"acc1", "mean_per_class_recall"}


def test_workers_share_the_shards_and_leave_no_picture_out(data: Path, digits: Path) -> None:
    from clip_benchmark.datasets.builder import build_dataset

    from trainer.scores import batched

    pictures = digits_of(digits)[:50]
    folder = classified(data, "digits", pictures, shards=3)
    made = build_dataset("wds/digits", root=str(folder), transform=lambda image: torch.zeros(1), split="test")
    labels = torch.cat([labels for _, labels in batched(made, 8, 2)])
    assert sorted(labels.tolist()) == sorted(digit for _, digit in pictures)


def test_vtab_plus_is_clip_benchmarks(digits: Path) -> None:
    from clip_benchmark.datasets.builder import dataset_collection

    assert list(SUITES["vtab+"]) == dataset_collection["vtab+"]
    assert set(SUITES["retrieval"]) == set(dataset_collection["retrieval"]) - {"flickr8k"}


# --- what is refused --------------------------------------------------------------------------------


def refused(folder: Path, capsys: Any) -> str:
    capsys.readouterr()
    assert benchmark.main([str(folder)]) == ExitCode.REFUSED
    said = str(capsys.readouterr().err)
    assert said.startswith("error: ") and said.count("\n") == 1
    assert not (folder / RESULTS_FILE).exists()
    return said


def test_a_checkpoint_with_a_flipped_byte_is_not_scored(evaluation: Asked, capsys: Any) -> None:
    folder = evaluation("digits")
    checkpoint = folder.parent.parent / benchmark.read(folder).checkpoint
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    assert "bytes have changed since it was written" in refused(folder, capsys)
    publish(checkpoint)  # whole in itself, but another one
    assert "is not the checkpoint that was to be evaluated" in refused(folder, capsys)
    checkpoint.unlink()
    assert "is not there any more: training keeps the newest ones" in refused(folder, capsys)


def test_weights_of_another_model_are_not_scored(evaluation: Asked, capsys: Any) -> None:
    folder = evaluation("digits")
    text = (folder / "evaluation.json").read_text()
    (folder / "evaluation.json").write_text(text.replace('"force_image_size": null', '"force_image_size": 64'))
    assert "does not fit ViT-digits-32: visual.positional_embedding is" in refused(folder, capsys)


def test_without_clip_benchmark_one_line_says_what_to_install(
    evaluation: Asked, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = evaluation("digits")
    monkeypatch.delitem(sys.modules, "trainer.scores", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "clip_benchmark"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "clip_benchmark", None)  # as if it were not there
    said = refused(folder, capsys)
    assert "clip_benchmark" in said and said.endswith("pip install 'clipctl[eval]'\n")


@pytest.mark.parametrize("content", [None, "{", '{"schema": 99}'])
def test_what_was_asked_must_be_readable(content: str | None, tmp_path: Path, capsys: Any) -> None:
    if content is not None:
        (tmp_path / "evaluation.json").write_text(content)
    assert str(tmp_path / "evaluation.json") in refused(tmp_path, capsys)


ALONE = """
import socket, sys
def refuse(*arguments):
    raise SystemExit("the network was asked")
socket.getaddrinfo = socket.create_connection = refuse
from trainer import benchmark
code = benchmark.main(sys.argv[1:])
import os
assert os.environ["HF_HUB_OFFLINE"] == "1"
sys.exit(code)
"""


def test_the_network_is_never_asked(evaluation: Asked, data: Path, digits: Path) -> None:
    """In a process of its own, as the job script starts it: also what is imported must not."""
    classified(data, "digits", digits_of(digits)[::18])
    folder = evaluation("digits")
    done = subprocess.run([sys.executable, "-P", "-c", ALONE, folder], capture_output=True, text=True)
    assert done.returncode == ExitCode.COMPLETED, done.stderr
    assert done.stdout.startswith("digits: acc1 0.") and done.stdout.endswith("s)\n")
    assert "it/s" not in done.stderr  # no bars in a log
