"""From a folder as img2dataset leaves it to a trained model: looked at by `clipctl data check`, then trained on."""

from __future__ import annotations

import json
import math
from pathlib import Path

from clipctl.dataset.survey import Survey, survey
from tests.dataset.tars import image, write_samples
from tests.trainer.attempts import digits_spec, prepare, run_here
from trainer.contract import ExitCode

SHARDS, PER_SHARD, FAILED = 3, 40, 7


def write_folder(folder: Path) -> str:
    """`img2dataset --output_format webdataset --caption_col TEXT --save_additional_columns '["punsafe"]'`.

    Keys are shard and number, those that could not be downloaded are left out, and beside each tar lie its metadata
    and its statistics. The brace pattern of the tars.
    """
    folder.mkdir()
    for shard in range(SHARDS):
        numbers = [number for number in range(PER_SHARD) if number % FAILED]
        samples = {f"{shard:05d}{number:04d}": sample(shard, number) for number in numbers}
        write_samples(folder / f"{shard:05d}.tar", samples)
        (folder / f"{shard:05d}.parquet").write_bytes(b"PAR1")  # nobody here reads it
        stats = {"count": PER_SHARD, "successes": len(numbers), "failed_to_download": PER_SHARD - len(numbers)}
        (folder / f"{shard:05d}_stats.json").write_text(json.dumps(stats | {"failed_to_resize": 0, "status_dict": {}}))
    return f"{folder}/{{00000..{SHARDS - 1:05d}}}.tar"


def sample(shard: int, number: int) -> dict[str, bytes]:
    caption, key = f"a picture of {number} things", f"{shard:05d}{number:04d}"
    facts = {"url": "https://example.org/x.jpg", "caption": caption, "key": key, "status": "success", "exif": "{}"}
    facts |= {"width": 256, "height": 256, "original_width": 640, "original_height": 480, "punsafe": number / PER_SHARD}
    return {
        "jpg": image(256, 256, format="JPEG", quality=95),
        "txt": caption.encode(),
        "json": json.dumps(facts, indent=4).encode(),
    }


def test_a_folder_of_img2datasets_is_sound_and_can_be_trained_on(tmp_path: Path) -> None:
    pattern = write_folder(tmp_path / "images")
    found = Survey()
    for shard in sorted((tmp_path / "images").glob("*.tar")):
        found.add(survey(str(shard)))
    downloaded = SHARDS * (PER_SHARD - math.ceil(PER_SHARD / FAILED))
    assert (found.shards, found.samples, found.pairs, found.troubles) == (SHARDS, downloaded, downloaded, {})
    assert (found.with_stats, found.tags.punsafe) == (SHARDS, downloaded)
    assert (found.formats, found.widths) == ({"JPEG": downloaded}, {256: downloaded})

    data = {"train_data": pattern, "train_num_samples": downloaded}
    train = digits_spec(tmp_path, epochs=1, data=data)
    started = prepare(tmp_path / "run", 1, train)
    assert run_here(started) == ExitCode.COMPLETED
    losses = [loss for loss, _ in started.losses().values()]
    assert len(losses) == math.ceil(downloaded / train.batch_size)
    assert all(map(math.isfinite, losses))
    assert started.events("data") == []  # none was skipped
