"""Test sets by name, and whether they are on disk as clip_benchmark reads them: folders of webdataset shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from trainer.evaluation import (
    CLASSES_FILE,
    RETRIEVAL,
    SHARDS_FILE,
    SPLIT,
    TEMPLATES_FILE,
    TYPE_FILE,
    folder_of,
)

_VTAB_PLUS = (
    "imagenet1k",
    "imagenetv2",
    "imagenet_sketch",
    "imagenet-a",
    "imagenet-r",
    "objectnet",
    "fer2013",
    "voc2007",
    "voc2007_multilabel",
    "sun397",
    "cars",
    "fgvc_aircraft",
    "mnist",
    "stl10",
    "gtsrb",
    "country211",
    "renderedsst2",
    "vtab/caltech101",
    "vtab/cifar10",
    "vtab/cifar100",
    "vtab/clevr_count_all",
    "vtab/clevr_closest_object_distance",
    "vtab/diabetic_retinopathy",
    "vtab/dmlab",
    "vtab/dsprites_label_orientation",
    "vtab/dsprites_label_x_position",
    "vtab/dtd",
    "vtab/eurosat",
    "vtab/kitti_closest_vehicle_distance",
    "vtab/flowers",
    "vtab/pets",
    "vtab/pcam",
    "vtab/resisc45",
    "vtab/smallnorb_label_azimuth",
    "vtab/smallnorb_label_elevation",
    "vtab/svhn",
)
_CAPTIONED = ("mscoco_captions", "flickr30k")
# The first and the second by clip_benchmark's names and with its sets, but for Flickr8k, which the card leaves out.
SUITES: Mapping[str, tuple[str, ...]] = {
    "vtab+": _VTAB_PLUS,
    "retrieval": _CAPTIONED,
    "card": (*_VTAB_PLUS, *_CAPTIONED),
}
_READ_OTHERWISE = set("{}")  # webdataset takes them for a pattern of shards


def lacking(data: Path, datasets: tuple[str, ...]) -> tuple[str, ...]:
    """What an evaluation of these would not find, one line a set. OSError: the disk does not answer."""
    if found := sorted(_READ_OTHERWISE & set(str(data))):
        return (f"{data}: must be without {' and '.join(found)}, which webdataset takes for a pattern of shards",)
    if not data.is_dir():
        return (f"{data}: is no folder that is there; test sets are looked for below it",)
    problems = ((name, next(_problems(folder_of(data, name)), "")) for name in datasets)
    return tuple(f"{name}: {problem}" for name, problem in problems if problem)


def _problems(folder: Path) -> Iterator[str]:
    """Of one set; only the first is told."""
    shards = folder / SPLIT / SHARDS_FILE
    if not folder.is_dir():
        yield f"{folder} is not there"
    if not shards.is_file():
        yield f"{shards} is not there, which says how many shards there are"
    text = shards.read_text(encoding="utf-8", errors="replace").strip()
    if not text.isdecimal() or int(text) == 0:
        yield f"{shards} says {text!r:.40}, which is no number of shards"
        return
    for number in range(int(text)):
        if not (shard := folder / SPLIT / f"{number}.tar").is_file():
            yield f"{shard} is not there; {shards} says that there are {text} shards"
    if _kind(folder) != RETRIEVAL:
        for name in (CLASSES_FILE, TEMPLATES_FILE):
            if not (folder / name).is_file():
                yield f"{folder / name} is not there, and without it no class has a prompt"


def _kind(folder: Path) -> str:
    file = folder / TYPE_FILE
    return file.read_text(encoding="utf-8", errors="replace").strip().lower() if file.is_file() else ""
