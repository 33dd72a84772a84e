"""What `train.engine: open_clip` cannot do: refused, so that nothing is asked for that open_clip_train would ignore."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from clipctl.spec.run import RunSpec
from clipctl.spec.words import Problem, refused
from trainer.contract import Classes, Data, DatasetType, Engine, Save, ZeroShot
from trainer.schedule import Geometry, open_clip_steps

ENGINE = "train.engine"
_DATA = {field.name: field.default for field in fields(Data)}
_ZEROSHOT = {field.name: field.default for field in fields(ZeroShot)}
_SAVE = {field.name: field.default for field in fields(Save)}


def open_clip_rules(spec: RunSpec) -> Iterator[Problem]:
    """Of a run that open_clip_train itself computes; nothing of any other."""
    if spec.train.engine is not Engine.OPEN_CLIP:
        return
    for path, value, fits, rule in (*_beside_its_options(spec), *_evaluations(spec)):
        if value != fits:
            yield refused(path, value, f"{rule}; train.engine=torch honours it", (ENGINE,))
    yield from _length(spec)


def _beside_its_options(spec: RunSpec) -> Iterator[tuple[str, Any, Any, str]]:
    """Path, value, the one value that is honoured, and why."""
    train, data, save = spec.train, spec.train.data, spec.train.save
    yield "train.tf32", train.tf32, True, "open_clip_train never computes without TF32"
    yield "train.faults", train.faults, (), "open_clip_train rehearses no faults"
    yield "train.rehearsal.step_seconds", train.rehearsal.step_seconds, 0.0, "open_clip_train computes real steps"
    rule = "open_clip_train saves at the end of an epoch, not inside one"
    yield "train.save.steps", save.steps, _SAVE["steps"], rule
    yield "train.save.minutes", save.minutes, _SAVE["minutes"], rule
    rule = "open_clip_train does not count what it leaves out"
    yield "train.data.max_bad_fraction", data.max_bad_fraction, _DATA["max_bad_fraction"], rule
    rule = "open_clip_train reads no safety tags"
    yield "train.data.max_punsafe", data.max_punsafe, _DATA["max_punsafe"], rule
    if data.dataset_type is DatasetType.CSV:
        rule = "open_clip_train makes an epoch of all rows, and heeds no train_num_samples"
        yield "train.data.dataset_type", data.dataset_type, None, rule


def _evaluations(spec: RunSpec) -> Iterator[tuple[str, Any, Any, str]]:
    zeroshot = spec.train.zeroshot
    if zeroshot is None:
        return
    yield "train.zeroshot.classes", zeroshot.classes, Classes.IMAGENET, "open_clip_train knows ImageNet's classes alone"
    rule = "open_clip_train evaluates in batches of train.batch_size"
    yield "train.zeroshot.batch_size", zeroshot.batch_size, _ZEROSHOT["batch_size"], rule
    if zeroshot.data.endswith(".tar") or "{" in zeroshot.data:
        rule = "open_clip_train reads no shards here, but a folder with one folder a class"
        yield "train.zeroshot.data", zeroshot.data, None, rule


def _length(spec: RunSpec) -> Iterator[Problem]:
    """Where the two count an epoch differently, steps and the learning rate would not be what they are said to be."""
    train, geometry = spec.train, Geometry.of(spec.train, spec.ranks)
    theirs = open_clip_steps(train, spec.ranks)
    if train.data.dataset_type is DatasetType.CSV or theirs == geometry.steps_per_epoch:
        return
    whole = geometry.global_batch * max(1, geometry.workers)
    samples = -(-train.data.train_num_samples // whole) * whole
    rule = f"open_clip_train makes {theirs} steps an epoch of it, not {geometry.steps_per_epoch}; try {samples}"
    concerns = ("train.batch_size", "train.accum_freq", "resources", "train.data", ENGINE)
    yield refused("train.data.train_num_samples", train.data.train_num_samples, rule, concerns)
