"""What a site says of itself, and what a launch there would lack. The texts are those of a real Slurm 22.05."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from clipctl.site import preflight
from clipctl.site.disks import checkpoint_bytes, disk_of, files_kept
from clipctl.site.slurm import Absent, Site, parse, seconds
from clipctl.spec import RunSpec, load_cluster, patched, resolve
from trainer.contract import Engine, Save

CONFIG = """\
Configuration data as of 2026-11-24T09:29:38
AccountingStorageType   = accounting_storage/slurmdbd
ClusterName             = juwels
MinJobAge               = 300 sec
SLURM_VERSION           = 22.05.8
"""
PARTITIONS = (
    "PartitionName=booster AllowGroups=ALL Default=YES MaxNodes=384 MaxTime=1-00:00:00 State=UP TotalNodes=936\n"
    "PartitionName=develbooster AllowGroups=ALL Default=NO MaxNodes=4 MaxTime=02:00:00 State=DOWN TotalNodes=10\n"
)
SITE = parse(CONFIG, PARTITIONS)


def l14(root: Path, **changes: object) -> RunSpec:
    return patched(resolve("l14-laion2b"), {"root": str(root)} | changes)


def lines(spec: RunSpec, site: Site | Absent = SITE) -> list[str]:
    return list(preflight.problems(spec, load_cluster("juwels-booster"), site))


def test_what_slurm_says_of_itself() -> None:
    assert (SITE.cluster_name, SITE.version, SITE.accounting, SITE.memory) == ("juwels", "22.05.8", True, 300)
    booster, devel = SITE.partitions["booster"], SITE.partitions["develbooster"]
    assert (booster.nodes, booster.max_nodes, booster.max_seconds, booster.up) == (936, 384, 86_400, True)
    assert (devel.default, devel.max_seconds, devel.up) == (False, 7200, False)


@pytest.mark.parametrize(
    ("text", "value"),
    [("UNLIMITED", None), ("30", 1800), ("10:30", 630), ("02:00:00", 7200), ("1-00:00:00", 86_400), ("2-12", 216_000)],
)
def test_slurms_times(text: str, value: int | None) -> None:
    assert seconds(text) == value


def test_a_run_that_lacks_nothing(tmp_path: Path) -> None:
    spec = l14(tmp_path, **{"slurm.account": "laion", "train.save.keep_last": 8})
    free = disk_of(tmp_path)
    assert free is not None
    assert lines(spec) == [] or free.free < 10 * 5.2e9  # a small disk is rightly said to be one


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "slurm.account: is missing: juwels-booster bills a project; --set slurm.account=NAME"),
        ({"resources.nodes": 385}, "resources.nodes=385: partition booster gives at most 384 to a job"),
        ({"slurm.time": "25:00:00"}, "slurm.time=25:00:00: partition booster allows at most 1-00:00:00"),
        ({"slurm.partition": "bosster"}, "slurm.partition=bosster: is not here; --set slurm.partition=... is one of"),
        ({"slurm.partition": "develbooster", "slurm.time": "01:00:00"}, "slurm.partition=develbooster: is not up"),
        ({"train.save.keep_last": None, "train.model": "ViT-bigG-14"}, "161 checkpoints of 30.5 GB need 4,906 GB"),
    ],
)
def test_what_is_missing_is_said_with_the_option_to_type(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    assert any(words in line for line in lines(l14(tmp_path, **changes)))


def test_of_several_partitions_one_that_can_take_the_job_is_enough(tmp_path: Path) -> None:
    both = lines(l14(tmp_path, **{"slurm.partition": "develbooster,booster", "slurm.account": "laion"}))
    assert not any("develbooster" in line for line in both)


def test_without_a_slurm_everything_else_is_still_said() -> None:
    spec = resolve("l14-laion2b")
    found = lines(spec, Absent("no Slurm is here (scontrol: No such file or directory)"))
    assert [line.partition(":")[0] for line in found] == ["no Slurm is here (scontrol", "slurm.account", "root"]


def test_another_cluster_than_the_profiles(tmp_path: Path) -> None:
    cluster = load_cluster("juwels-booster").model_copy(update={"cluster_name": "elsewhere"})
    found = list(preflight.problems(l14(tmp_path), cluster, SITE))
    assert found[0].startswith("cluster=juwels-booster: is not here, this is juwels")


def test_room_for_checkpoints(tmp_path: Path) -> None:
    train = l14(tmp_path).train
    assert checkpoint_bytes(train) == 427_616_513 * 12  # 5.1 GB: float32 weights and two moments
    assert checkpoint_bytes(replace(train, engine=Engine.REHEARSAL)) is None
    assert files_kept(Save(keep_last=10), 160) == 11
    assert files_kept(Save(save_frequency=2), 160) == 81
    assert files_kept(Save(keep_last=10, minutes=30), 4) == 7
    disk = disk_of(tmp_path / "not" / "yet")
    assert disk is not None
    assert disk.kind and disk.writable and disk.free > 0
