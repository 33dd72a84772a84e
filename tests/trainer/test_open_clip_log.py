"""Lines of open_clip_train's log. They are filled in by the format strings of its versions, copied from their tags."""

from __future__ import annotations

import math
from datetime import datetime

import pytest

from trainer.open_clip_log import (
    BadSample,
    EpochEnded,
    EpochStarted,
    Evaluated,
    Evaluating,
    Fact,
    Option,
    Progress,
    Raised,
    Resumed,
    Started,
    read_line,
    read_log,
    read_params,
)

BEFORE = "2022-09-15,12:00:01 | INFO | "
BAD = "Handling webdataset error (ValueError('x')). Ignoring."
SINCE_4 = "2026-06-27,12:00:01 | INFO | open_clip_train.train | "


def fact(text: str) -> Fact | None:
    line = read_line(text)
    return line and line.fact


def formatted(epoch: int, loss: float, version: str) -> str:
    """As train_one_epoch of `version` logs it after batch 4 of 20, 16 samples on each of 2 ranks."""
    digits, samples, total, percent = 3, 4 * 32, 640, 20.0
    data_time, batch_time, lr, scale = 0.01234, 0.4, 0.0001, 14.2857
    per_second, mean = 32 / batch_time, loss
    losses_m = {"contrastive_loss": loss, "loss": loss}
    loss_log = " ".join(f"{name.capitalize()}: {value:#.5g} ({value:#.5g})" for name, value in losses_m.items())
    head = f"Train Epoch: {epoch} [{samples:>{digits}}/{total} ({percent:.0f}%)]"
    first = f"{head}\tLoss: {loss:.6f}\tData (t) {data_time:.3f}\tBatch (t) {batch_time:.3f}"
    then = f"{head} Loss: {loss:#.5g} ({mean:#.4g}) Data (t): {data_time:.3f} "
    since = f"{head} Data (t): {data_time:.3f} "
    end = f"LR: {lr:5f} Logit Scale: {scale:.3f}"
    gpu = f"{per_second / 2:#g}/s/gpu"
    return {
        "v0.1": f"2021-07-28,12:00:01 | INFO | Rank 0 | {first}\tLR: {lr:5f}\tlogit_scale {math.log(scale):.3f}",
        "v0.2.1": f"{BEFORE}{then}Batch (t): {batch_time:.3f} {end}",
        "v2.0.0": f"{BEFORE}{then}Batch (t): {batch_time:.3f}, {per_second:#g}/s {end}",
        "v2.11.0": f"{BEFORE}{since}Batch (t): {batch_time:.3f}, {per_second:#g}/s {end} " + loss_log,
        "v2.15.0": f"{BEFORE}{since}Batch (t): {batch_time:.3f}, {per_second:#g}/s, {gpu} {end} " + loss_log,
        "4.2.0.dev0": f"{SINCE_4}{since}Batch (t): {batch_time:.3f}, {per_second:#g}/s, {gpu} {end} " + loss_log,
    }[version]


VERSIONS = ("v0.1", "v0.2.1", "v2.0.0", "v2.11.0", "v2.15.0", "4.2.0.dev0")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_line_of_training_is_read_in_every_version(version: str) -> None:
    line = read_line(formatted(7, 3.9356, version))
    assert line is not None and isinstance(line.fact, Progress)
    seen, early = line.fact, version in ("v0.1", "v0.2.1")
    assert (seen.epoch, seen.samples, seen.samples_per_epoch) == (8, 128, 640)
    assert (seen.loss, seen.lr, seen.data_time, seen.batch_time) == (3.9356, 0.0001, 0.012, 0.4)
    assert seen.logit_scale == (2.659 if version == "v0.1" else 14.286)
    assert seen.samples_per_second == (None if early else 80.0)
    assert seen.mean_loss == (None if version == "v0.1" else pytest.approx(3.9356, abs=1e-3))
    assert seen.losses == ({"contrastive_loss": 3.9356} if version >= "v2.11" or version[0] == "4" else {})
    assert line.rank == (0 if version == "v0.1" else None)
    assert (line.time is not None) and (line.time.hour, line.time.second) == (12, 1)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e-7, 123456.0])
def test_numbers_come_as_they_are_printed_finite_or_not(version: str, value: float) -> None:
    seen = fact(formatted(0, value, version))
    assert isinstance(seen, Progress)
    assert seen.loss == pytest.approx(value, rel=1e-4, abs=1e-6, nan_ok=True)


def test_an_empty_epoch_and_an_instant_batch_are_numbers_too() -> None:
    times = "Train Epoch: 0 [32/32 (nan%)] Data (t): nan Batch (t): 0.000, inf/s"
    seen = fact(f"{BEFORE}{times} LR: 0.000100 Logit Scale: nan Loss: 1.5 (1.5)")
    assert isinstance(seen, Progress)
    assert seen.samples_per_second == math.inf and math.isnan(seen.data_time) and math.isnan(seen.logit_scale)


def test_the_gradient_norm_of_a_fork_is_read() -> None:
    seen = fact(formatted(0, 2.0, "v2.15.0") + " Grad Norm: 0.731")
    assert isinstance(seen, Progress) and seen.grad_norm == 0.731


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Params:", Started()),
        ("  batch_size: 208", Option("batch_size", "208")),
        ("  train_data: /data/{00000..23295}.tar: x", Option("train_data", "/data/{00000..23295}.tar: x")),
        ("  name: ", Option("name", "")),
        ("Start epoch 68", EpochStarted(69)),
        ("End epoch 68 | Avg Loss: 1.2345", EpochEnded(69)),
        ("=> resuming checkpoint 'logs/it's/epoch_68.pt' (epoch 68)", Resumed("logs/it's/epoch_68.pt", 68)),
        ("=> resuming sharded checkpoint 'logs/epoch_68' (epoch 68)", Resumed("logs/epoch_68", 68)),
        ("=> loaded checkpoint 'openai.pt' (epoch 0)", Resumed("openai.pt", 0)),
        ("Starting zero-shot imagenet.", Evaluating()),
        ("Eval Epoch: 2 [100 / 5000]\tClip Loss: 3.512345\t", Evaluating()),
        (BAD, BadSample(BAD)),
        ("CLIP(", None),
        ("Using native Torch AdamW", None),
    ],
)  # fmt: skip
def test_other_lines(text: str, expected: Fact | None) -> None:
    assert fact(BEFORE + text) == expected
    assert fact(SINCE_4.replace("train | ", "main | ") + text) == expected
    assert fact(f"2022-09-15,12:00:01 |  gpu-07.cluster | INFO | {text}") == expected


def test_an_evaluation_has_its_metrics_by_name() -> None:
    metrics = {"imagenet-zeroshot-val-top1": 0.75325, "image_to_text_R@1": 0.5, "clip_val_loss": math.nan, "epoch": 4}
    seen = fact(
        f"{BEFORE}Eval Epoch: 4 " + "\t".join(f"{name}: {round(value, 4):.4f}" for name, value in metrics.items())
    )
    assert isinstance(seen, Evaluated) and seen.epochs_done == 4
    assert seen.metrics["imagenet-zeroshot-val-top1"] == 0.7532 and math.isnan(seen.metrics["clip_val_loss"])


@pytest.mark.parametrize(
    ("text", "expected", "rank"),
    [
        ("torch.cuda.OutOfMemoryError: CUDA out of memory.", "torch.cuda.OutOfMemoryError: CUDA out of memory.", None),
        ("[rank3]: RuntimeError: NCCL communicator was aborted", "RuntimeError: NCCL communicator was aborted", 3),
        ("KeyboardInterrupt", "KeyboardInterrupt", None),
        ("Exception: Exception", "Exception: Exception", None),
    ],
)
def test_an_exception_is_met_outside_the_logger(text: str, expected: str, rank: int | None) -> None:
    line = read_line(text)
    assert line is not None and line.fact == Raised(expected) and line.rank == rank and line.time is None
    assert fact(BEFORE + text) is None


def test_a_torn_end_waits_until_it_is_whole() -> None:
    whole = (formatted(0, 3.0, "v2.15.0") + "\n" + formatted(0, 2.0, "v2.15.0") + "\n").encode()
    for cut in range(len(whole)):
        first, taken = read_log(whole[:cut])
        rest, _ = read_log(whole[taken:])
        assert [line.fact.loss for line in first + rest if isinstance(line.fact, Progress)] == [3.0, 2.0]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_killed_process_began_does_not_hide_what_the_next_one_says(version: str) -> None:
    torn = formatted(7, 3.9356, version)
    for cut in range(len(torn) - 30):
        line = read_line(torn[:cut] + f"{BEFORE}Start epoch 7")
        assert line is not None and line.fact == EpochStarted(8)
        assert line.time == datetime(2022, 9, 15, 12, 0, 1)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_line_cut_anywhere_before_its_last_field_is_no_fact(version: str) -> None:
    text = formatted(7, 3.9356, version)
    last = text.rindex("ogit" if version in ("v0.1", "v0.2.1", "v2.0.0") else "Loss:")
    assert [fact(text[:cut]) for cut in range(len(text.split("Train")[0]), last)] == [None] * (
        last - len(text.split("Train")[0])
    )


def test_bytes_that_are_no_text_and_lines_of_other_programs_are_passed_over() -> None:
    chunk = b"\xff\xfe\x00\nslurmstepd: error: *** JOB 1 ***\r\n" + f"{BEFORE}Start epoch 0\r\n".encode() + b"\n"
    lines, taken = read_log(chunk)
    assert [line.fact for line in lines] == [EpochStarted(1)] and taken == len(chunk)


def test_interleaved_ranks_are_told_apart() -> None:
    lines, _ = read_log(
        b"".join(f"2021-07-28,12:00:01 | INFO | Rank {rank} | Start epoch 0\n".encode() for rank in (1, 0, 2))
    )
    assert [line.rank for line in lines] == [1, 0, 2]


def test_params_are_read_with_what_their_values_hold() -> None:
    text = "accum_freq: 1\nname: a: b\nresume: None\nwandb_notes: first\n two: lines\nworkers: 4\nempty: \n"
    assert read_params(text) == {
        "accum_freq": "1",
        "name": "a: b",
        "resume": "None",
        "wandb_notes": "first\n two: lines",
        "workers": "4",
        "empty": "",
    }  # fmt: skip
    with pytest.raises(ValueError, match="line 1 is not of the form `name: value`: <html>"):
        read_params("<html>\n")
