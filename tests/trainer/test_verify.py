"""No damaged checkpoint is ever taken for a whole one."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.contract import CheckpointManifest, Precision, Stream, dumps
from trainer.verify import damage, digest, manifest_path, read_manifest

SIZE = 200_000  # bytes of weights


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A real file of torch.save's."""
    import torch

    path = tmp_path / "epoch_3.pt"
    torch.save({"epoch": 3, "state_dict": {"w": torch.arange(SIZE // 4, dtype=torch.float32)}}, path)
    return path


def manifest_of(path: Path, **changes: object) -> CheckpointManifest:
    facts = {
        "file": path.name,
        "size": path.stat().st_size,
        "digest": digest(path),
        "run": "r",
        "attempt": 1,
        "epochs_done": 3,
        "step": 30,
        "step_in_epoch": 0,
        "samples_seen": 300,
        "loss": 1.0,
        "finite": True,
        "precision": Precision.FP32,
        "stream": Stream(batch_size=10, ranks=1, workers=1),
        "time": 0.0,
    }
    return CheckpointManifest(**(facts | changes))


def test_what_was_written_is_fine_with_and_without_a_manifest(checkpoint: Path) -> None:
    assert damage(checkpoint, manifest_of(checkpoint)) is None
    assert damage(checkpoint, None) is None


def test_every_truncation_is_caught(checkpoint: Path, soak: Callable[[int, int], int]) -> None:
    manifest, whole = manifest_of(checkpoint), checkpoint.read_bytes()
    lengths = [*random.Random(1).sample(range(len(whole)), soak(100, 2000)), 0, len(whole) - 1]
    for length in lengths:
        checkpoint.write_bytes(whole[:length])
        assert damage(checkpoint, manifest) is not None, f"cut at {length} of {len(whole)}"
        assert damage(checkpoint, None) is not None, f"cut at {length} of {len(whole)}, no manifest"


def test_every_flipped_byte_is_caught(checkpoint: Path, soak: Callable[[int, int], int]) -> None:
    manifest, whole = manifest_of(checkpoint), checkpoint.read_bytes()
    for place in random.Random(2).sample(range(len(whole)), soak(500, 20_000)):
        checkpoint.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
        assert damage(checkpoint, manifest) is not None, f"byte {place} of {len(whole)}"


def test_flipped_weights_are_caught_without_a_manifest_where_torch_itself_notices_nothing(checkpoint: Path) -> None:
    import torch

    whole = checkpoint.read_bytes()
    with zipfile.ZipFile(checkpoint) as archive:
        weights = max(archive.infolist(), key=lambda member: member.file_size)
    for offset in random.Random(3).sample(range(1000, weights.file_size - 1000), 50):
        place = weights.header_offset + offset
        checkpoint.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        torch.load(checkpoint, weights_only=True)
        assert damage(checkpoint, None) is not None, f"byte {place}"


def test_weights_that_were_never_finite_are_no_parent(checkpoint: Path) -> None:
    assert damage(checkpoint, manifest_of(checkpoint, finite=False)) == "its weights are not finite"


def test_a_checkpoint_without_a_manifest_or_with_half_a_one(checkpoint: Path) -> None:
    assert read_manifest(checkpoint) is None
    manifest_path(checkpoint).write_text(dumps(manifest_of(checkpoint)))
    assert read_manifest(checkpoint) == manifest_of(checkpoint)
    manifest_path(checkpoint).write_text(dumps(manifest_of(checkpoint))[:40])
    with pytest.raises(ValueError, match="not JSON"):
        read_manifest(checkpoint)
    assert damage(checkpoint.with_name("epoch_4.pt"), None) == "missing"
