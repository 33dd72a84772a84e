"""What an experiment of open_clip_train says of itself: `out.log` and `params.txt`. Standard library only.

A line of training by version (src/training/train.py, from v2.26 on src/open_clip_train/train.py):

    v0.1    Train Epoch: 0 [16/64 (25%)] Loss: 3.1 Data (t) 0.1 Batch (t) 0.4 LR: 0.000100 logit_scale 2.659   (by tabs)
    v0.2.1  Train Epoch: 0 [16/64 (25%)] Loss: 3.1 (3.3) Data (t): 0.1 Batch (t): 0.4 LR: 0.000100 Logit Scale: 14.2
    v2.0    the same, with `Batch (t): 0.4, 160.0/s`
    v2.11   Train Epoch: 0 [16/64 (25%)] Data (t): 0.1 Batch (t): 0.4, 160.0/s LR: 0.000100 Logit Scale: 14.2 Loss: ..
    v2.15   the same, with `160.0/s, 80.0/s/gpu`; main (4.2.0.dev0) puts the logger's name before the text

It counts the epoch in progress from 0; here, as in events, it is counted from 1. Nothing is logged when a checkpoint is
written. Its handler writes no traceback to out.log: one is met where standard error went to the same file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

NUMBER = r"[-+]?(?:nan|inf|\d+(?:\.\d*)?(?:e[-+]?\d+)?)"

_PREFIX = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\d,\d\d:\d\d:\d\d) \|"
    r"(?:  [^|\s]+ \|)?"  # the host, of setup_logging(include_host=True)
    r" (?P<level>[A-Z]+) \|"
    r"(?: [A-Za-z_]\w*(?:\.\w+)+ \|| root \|)?"  # the logger's name
    r"(?: Rank (?P<rank>\d+) \|)?"  # v0.1, where all ranks write to rank 0's log
    r" (?P<text>.*)$"
)
_TRAIN = re.compile(r"Train Epoch: (\d+) \[ *(\d+)/(\d+) \([^)]*%\)\]\s(.*)")
_DATA_TIME = re.compile(rf"\bData \(t\):? ({NUMBER})(?=\s)")
_BATCH_TIME = re.compile(rf"\bBatch \(t\):? ({NUMBER})(?:, ({NUMBER})/s)?(?:, {NUMBER}/s/gpu)?(?=\s)")
_LR = re.compile(rf"\bLR: ({NUMBER})(?=\s)")
_LOGIT_SCALE = re.compile(rf"\blogit[ _]scale:? ({NUMBER})(?=\s|$)", re.IGNORECASE)
_GRAD_NORM = re.compile(rf"\bgrad[ _]?norm:? ({NUMBER})(?=\s|$)", re.IGNORECASE)  # of forks: open_clip itself logs none
_LOSS = re.compile(rf"\b(\w*loss): ({NUMBER})(?: \(({NUMBER})\))?(?=\s|$)", re.IGNORECASE)
_EVALUATED = re.compile(r"Eval Epoch: (\d+) (.*)")
_STARTED_EPOCH = re.compile(r"Start epoch (\d+)")
_ENDED_EPOCH = re.compile(r"End epoch (\d+) \| ")
_RESUMED = re.compile(r"=> (?:resuming(?: sharded)?|loaded) checkpoint '(.*)' \(epoch (\d+)\)")
_OPTION = re.compile(r"  (\w+): (.*)")
_RAISED = re.compile(r"(?:\[?rank(\d+)\]?: ?)?((?:[A-Za-z_]\w*\.)*(?=[A-Z])\w*(?:Error|Exception|Interrupt)(?:: .*)?)")
_BAD_SAMPLE = "Handling webdataset error ("
_ZERO_SHOT = ("Starting zero-shot", "Building zero-shot classifier", "Using classifier", "Finished zero-shot")


@dataclass(frozen=True)
class Started:
    """A process begins; its options follow. A later one in the same file: a restart."""


@dataclass(frozen=True)
class Option:
    """One argument of the process that has begun, as in params.txt (which only the last start's are left in)."""

    name: str
    value: str


@dataclass(frozen=True)
class Resumed:
    path: str
    epochs_done: int


@dataclass(frozen=True)
class EpochStarted:
    epoch: int


@dataclass(frozen=True)
class EpochEnded:
    """Only since 4.2: after the last step of an epoch, before its evaluation."""

    epoch: int


@dataclass(frozen=True)
class Progress:
    """A step. Numbers that are not finite come as they are; times in seconds, of rank 0."""

    epoch: int
    samples: int  # of this epoch, this step's included (in v0.1: not)
    samples_per_epoch: int
    loss: float  # of this step; the mean of all ranks since 4.2, rank 0's before
    lr: float  # to 6 decimals
    logit_scale: float  # in v0.1: its logarithm
    data_time: float
    batch_time: float
    mean_loss: float | None = None  # what stands in parentheses: this epoch's, or since 4.2 a moving average
    samples_per_second: float | None = None  # all ranks
    grad_norm: float | None = None
    losses: Mapping[str, float] = field(default_factory=dict)  # contrastive_loss, caption_loss, ...


@dataclass(frozen=True)
class Evaluating:
    """Under way: zero-shot, or batches of the validation set."""


@dataclass(frozen=True)
class Evaluated:
    epochs_done: int
    metrics: Mapping[str, float]  # to 4 decimals; results.jsonl has all


@dataclass(frozen=True)
class BadSample:
    """The data pipeline dropped something, and went on."""

    text: str


@dataclass(frozen=True)
class Raised:
    """The last line of a traceback."""

    text: str


Fact = (
    Started | Option | Resumed | EpochStarted | EpochEnded | Progress | Evaluating | Evaluated | BadSample | Raised
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    fact: Fact
    time: datetime | None  # the host's wall clock, without a zone; None: no prefix
    rank: int | None  # where the line says it


def read_log(chunk: bytes) -> tuple[list[Line], int]:
    """The facts in the whole lines of `chunk`, in order, and how many bytes these lines are: a torn end waits."""
    end = chunk.rfind(b"\n") + 1
    lines = chunk[:end].decode("utf-8", errors="replace").split("\n")
    return [line for line in map(read_line, lines) if line is not None], end


def read_line(text: str) -> Line | None:
    """One line without its end; None: nothing that this module knows, or torn."""
    text = text.removesuffix("\r")
    prefixes = list(re.finditer(r"\d{4}-\d\d-\d\d,\d\d:\d\d:\d\d \|", text))
    if not prefixes:
        raised = _RAISED.fullmatch(text)
        return raised and Line(Raised(raised[2]), None, None if raised[1] is None else int(raised[1]))
    prefix = _PREFIX.match(text, prefixes[-1].start())  # what a killed process began stands before it
    fact = prefix and _fact(prefix["text"])
    if not prefix or not fact:
        return None
    return Line(fact, _time(prefix["time"]), None if prefix["rank"] is None else int(prefix["rank"]))


def read_params(text: str) -> dict[str, str]:
    """`params.txt`: one `name: value` a line, values as Python prints them. ValueError says which line is none."""
    params: dict[str, str] = {}
    last = None
    for number, line in enumerate(text.splitlines(), 1):
        name, colon, value = line.partition(": ")
        if colon and name.isidentifier():
            params[name], last = value, name
        elif last is not None:  # a value of several lines, such as --wandb-notes
            params[last] += "\n" + line
        else:
            raise ValueError(f"line {number} is not of the form `name: value`: {line:.60}")
    return params


def _time(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y-%m-%d,%H:%M:%S")
    except ValueError:
        return None


def _fact(text: str) -> Fact | None:
    if text == "Params:":
        return Started()
    if option := _OPTION.fullmatch(text):
        return Option(option[1], option[2])
    if text.startswith("Train Epoch: "):
        return _progress(text)
    if text.startswith("Eval Epoch: "):
        return _evaluation(text)
    if text.startswith(_ZERO_SHOT):
        return Evaluating()
    if text.startswith(_BAD_SAMPLE):
        return BadSample(text)
    return _border(text)


def _border(text: str) -> Fact | None:
    """Of an epoch, or of the run before."""
    if started := _STARTED_EPOCH.fullmatch(text):
        return EpochStarted(int(started[1]) + 1)
    if ended := _ENDED_EPOCH.match(text):
        return EpochEnded(int(ended[1]) + 1)
    if resumed := _RESUMED.fullmatch(text):
        return Resumed(resumed[1], int(resumed[2]))
    return None


def _progress(text: str) -> Progress | None:
    head = _TRAIN.fullmatch(text)
    if head is None:
        return None
    rest = head[4]
    losses = {name.lower(): (value, mean) for name, value, mean in _LOSS.findall(rest)}
    found = [pattern.search(rest) for pattern in (_LR, _LOGIT_SCALE, _DATA_TIME, _BATCH_TIME)]
    lr, scale, data_time, batch_time = found
    if not (lr and scale and data_time and batch_time and "loss" in losses):
        return None
    loss, mean = losses.pop("loss")
    norm = _GRAD_NORM.search(rest)
    return Progress(
        epoch=int(head[1]) + 1,
        samples=int(head[2]),
        samples_per_epoch=int(head[3]),
        loss=float(loss),
        lr=float(lr[1]),
        logit_scale=float(scale[1]),
        data_time=float(data_time[1]),
        batch_time=float(batch_time[1]),
        mean_loss=float(mean) if mean else None,
        samples_per_second=float(batch_time[2]) if batch_time[2] else None,
        grad_norm=float(norm[1]) if norm else None,
        losses={name: float(value) for name, (value, _) in losses.items()},
    )


def _evaluation(text: str) -> Evaluating | Evaluated | None:
    head = _EVALUATED.fullmatch(text)
    if head is None:
        return None
    if head[2].startswith("["):
        return Evaluating()
    pairs = [item.rpartition(": ") for item in head[2].split("\t") if item]
    if not all(name and re.fullmatch(NUMBER, value) for name, _, value in pairs):
        return None
    return Evaluated(int(head[1]), {name: float(value) for name, _, value in pairs})
