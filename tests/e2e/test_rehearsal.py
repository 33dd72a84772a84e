"""The tour's story on two light ranks: the same commands, events and files, in seconds and without data."""

from __future__ import annotations

import pytest

from clipctl.errors import ExitStatus
from tests.e2e.conftest import Desk

LIGHT = ("train.engine=rehearsal", "resources.ranks_per_node=2")
OVERFLOW = "train.faults=[{kind: overflow, at_epoch: 2, at_step: 2}]"


@pytest.mark.timeout(600)
def test_a_rehearsal_diverges_in_float16_and_completes_in_float32(desk: Desk):
    said = desk.launch("light", *LIGHT, "train.precision=amp_fp16", OVERFLOW, follow=True)
    assert said.code == ExitStatus.DIVERGED, said
    assert "REHEARSAL: a few hundred parameters in place of ViT-digits-32, and no data" in said.out
    assert "REHEARSAL: carries the fault overflow from epoch 2, step 2" in said.out
    assert "error: light diverged at epoch 2, step 2" in said.err
    assert [event["ranks"] for event in desk.events("light", 1) if event["kind"] == "diverged"] == [[0, 1]]

    said = desk.clipctl("resume", "light", "--epoch", "2", "--precision", "fp32", "-y", "--follow")
    assert said.code == 0, said
    assert "train.batch_size  32 -> 48" in said.out
    run = desk.status("light")
    assert (run["state"], run["attempts"], run["batch_size"]) == ("completed", 2, 48)
    assert desk.clipctl("checkpoints", "light", "--verify").out.count("verified") == 3
    assert desk.clipctl("logs", "light", "--rank", "1").out.startswith("place {")
    assert not (desk.home / "data").exists()
