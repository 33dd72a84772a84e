"""What ships with the package."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from clipctl.domain import AttemptRecord, History, Limits, Rung, RunState
from clipctl.errors import InvalidSpec, NotFound
from clipctl.policy.remedies import changes
from clipctl.spec import cluster_names, load_cluster, patched, preset_names, resolve
from trainer.contract import Precision, Schedule, dumps
from trainer.schedule import Geometry, learning_rate


def test_there_are_four_presets_and_two_profiles() -> None:
    assert preset_names() == ("demo", "g14-laion2b", "h14-laion2b", "l14-laion2b")
    assert cluster_names() == ("juwels-booster", "local")


def test_l14_is_the_run_of_the_model_card() -> None:
    spec = resolve("l14-laion2b")
    train = spec.train
    assert (spec.cluster, spec.resources.nodes, spec.ranks) == ("juwels-booster", 96, 384)
    assert (train.model, train.precision, train.epochs, train.seed) == ("ViT-L-14", Precision.AMP_FP16, 160, 0)
    assert (train.data.train_data, train.data.train_num_samples) == ("/data/laion2B-en/{00000..23295}.tar", 200_000_000)
    assert (train.data.workers, train.data.dataset_resampled, train.ddp_static_graph) == (6, True, True)
    assert (train.optim.lr, train.optim.warmup, train.optim.lr_scheduler) == (1e-3, 10_000, Schedule.COSINE)
    assert (train.optim.beta1, train.optim.beta2, train.optim.eps, train.optim.wd) == (0.9, 0.98, 1e-6, 0.2)
    assert (train.loss.local_loss, train.loss.gather_with_grad) == (True, True)
    assert train.zeroshot is not None
    assert (train.save.save_frequency, train.zeroshot.frequency) == (1, 1)
    assert spec.precisions == {
        Precision.AMP_FP16: {"batch_size": 208},
        Precision.FP32: {"batch_size": 224, "tf32": True},
    }
    assert (spec.recovery.rollback_epochs, spec.recovery.precision_ladder) == (6, (Precision.AMP_FP16, Precision.FP32))


def test_the_restart_of_l14_has_the_card_s_arithmetic() -> None:
    """Epoch 69 in fp32: fewer steps an epoch, so the step number goes back and the LR hardly moves."""
    before, after = resolve("l14-laion2b"), resolve("l14-laion2b", sets=["train.precision=fp32"])
    geometries = [Geometry.of(spec.train, spec.ranks) for spec in (before, after)]
    assert [geometry.global_batch for geometry in geometries] == [79_872, 86_016]
    steps = [geometry.steps_per_epoch for geometry in geometries]
    assert steps == [2508, 2328]
    rates = [learning_rate(before.train.optim, 68 * one, epochs=160, steps_per_epoch=one) for one in steps]
    assert rates == pytest.approx([6.390e-4, 6.408e-4], abs=1e-7)


@pytest.mark.parametrize(
    ("name", "model", "gpus", "samples", "batches", "globals_"),
    [
        ("h14-laion2b", "ViT-H-14", 824, 32e9, {"amp_fp16": 96, "amp_bf16": 96}, [79_104, 79_104]),
        ("g14-laion2b", "ViT-g-14", 800, 12e9, {"amp_fp16": 40, "amp_bf16": 80}, [32_000, 64_000]),
    ],
)
def test_h14_and_g14_are_the_runs_of_the_note(
    name: str, model: str, gpus: int, samples: float, batches: dict[str, int], globals_: list[int]
) -> None:
    first = resolve(name)
    second = resolve(name, sets=["train.precision=amp_bf16"])
    assert (first.train.model, first.ranks) == (model, gpus)
    assert first.train.epochs * first.train.data.train_num_samples == samples
    assert first.precisions == {Precision(key): {"batch_size": size} for key, size in batches.items()}
    assert [Geometry.of(spec.train, spec.ranks).global_batch for spec in (first, second)] == globals_
    assert first.recovery.precision_ladder == (Precision.AMP_FP16, Precision.AMP_BF16)
    assert first.recovery.rollback_epochs == 6


@pytest.mark.parametrize("name", ["demo", "l14-laion2b", "h14-laion2b", "g14-laion2b"])
@pytest.mark.parametrize("precision", Precision)
def test_every_change_that_policy_may_make_is_valid(name: str, precision: Precision) -> None:
    spec = resolve(name, sets=[f"train.precision={precision}", f"root=/scratch/{name}"])
    ladder = tuple(dict.fromkeys([precision, *Precision]))
    recovery = dataclasses.replace(spec.recovery, precision_ladder=ladder)
    train = json.loads(dumps(spec.train))
    attempt = AttemptRecord(
        number=1, parent_digest=None, parent_path=None, settings_digest="", train=train, patch={}, ranks=spec.ranks,
        created_at=0.0,
    )  # fmt: skip
    past = History(run=name, state=RunState.STOPPED, attempts=(attempt,), checkpoints=())
    patches = [patch for patch, _ in changes(past, recovery)]
    assert len(patches) == len(Precision) - 1 + len(Rung)
    assert all(patched(spec, patch) != spec for patch in patches)


def test_the_demo_is_small_and_its_batch_changes_with_the_precision() -> None:
    demo = resolve("demo")
    assert (demo.cluster, demo.prepare, demo.train.model) == ("local", "digits", "ViT-digits-32")
    assert demo.train.batch_size == demo.precisions[Precision.FP32]["batch_size"]
    assert len({settings["batch_size"] for settings in demo.precisions.values()}) == 3
    assert demo.train.data.train_num_samples // (2 * demo.train.batch_size) <= 100


def test_the_profiles() -> None:
    juwels, local = load_cluster("juwels-booster"), load_cluster("local")
    assert (juwels.scheduler, juwels.gpus_per_node, juwels.master_addr_suffix) == ("slurm", 4, "i")
    assert juwels.slurm.given() == {"partition": "booster", "time": "24:00:00", "cpus_per_task": 6}
    assert (juwels.srun.cpu_bind, juwels.srun.accel_bind) == ("none,v", "gn")
    assert (local.scheduler, local.setup, local.env, local.root) == ("local", (), {}, None)


def test_the_default_patience_is_pinned() -> None:
    patience = Limits(
        lost_after=180.0,
        unanswered_for=180.0,
        claim_wait=600.0,
        rank_grace=30.0,
        poll_every=15.0,
        query_timeout=30.0,
        submit_timeout=180.0,
    )
    assert load_cluster("juwels-booster").limits == patience
    assert load_cluster("local").limits == replace(patience, lost_after=0.0, poll_every=0.0)


@pytest.fixture
def own_clusters(tmp_path: Path) -> Path:
    folder = tmp_path / "config/clipctl/clusters"
    folder.mkdir(parents=True)
    return folder


def test_a_user_s_profile_comes_first_and_can_extend_the_packaged_one(own_clusters: Path) -> None:
    (own_clusters / "juwels-booster.yaml").write_text(
        "extends: juwels-booster\nslurm.account: my-project\nsetup: [module load GCC]\nlimits: {lost_after: 5}\n"
    )
    cluster = load_cluster("juwels-booster")
    assert (cluster.slurm.account, cluster.slurm.partition, cluster.limits.lost_after) == ("my-project", "booster", 5.0)
    assert cluster.setup == ("module load GCC",)
    assert cluster_names() == ("juwels-booster", "local")


def test_a_user_s_profile_has_a_name_of_its_own(own_clusters: Path, tmp_path: Path) -> None:
    (own_clusters / "tower.yaml").write_text(f"scheduler: local\nroot: {tmp_path}/runs\ngpus_per_node: 3\n")
    assert cluster_names() == ("juwels-booster", "local", "tower")
    spec = resolve("demo", cluster="tower")
    assert (spec.cluster, spec.root, spec.ranks) == ("tower", tmp_path / "runs", 3)


def test_all_mistakes_of_a_profile_are_told_with_their_lines(own_clusters: Path) -> None:
    file = own_clusters / "bad.yaml"
    lines = [
        "scheduler: lsf",
        "partiton: x",
        "slurm: {time: 1 day}",
        "env: {A-B: x}",
        'setup: ["a\\nb"]',
        "limits: {lost: 3}",
    ]
    file.write_text("\n".join(lines))
    with pytest.raises(InvalidSpec) as refusal:
        load_cluster("bad")
    assert sorted(line.removeprefix(f"{file}:").split(":")[0] for line in refusal.value.problems) == list("123456")
    told = refusal.value.message
    assert "partiton: no such key; did you mean slurm.partition?" in told
    assert 'slurm.time="1 day": must be hours:minutes:seconds' in told
    assert "env.A-B=A-B: must be the name of an environment variable" in told


@pytest.mark.parametrize("variable", ["CLIPCTL_NONCE", "CLIPCTL_HOME", "MASTER_PORT", "python", "exit_file"])
def test_a_profile_cannot_set_what_the_job_script_rests_on(variable: str, own_clusters: Path) -> None:
    (own_clusters / "bad.yaml").write_text(f"scheduler: local\nenv: {{{variable}: x}}\n")
    with pytest.raises(InvalidSpec, match=rf"bad\.yaml:2: env\.{variable}"):
        load_cluster("bad")


def test_this_machine_alone_has_no_use_for_what_slurm_is_told(own_clusters: Path) -> None:
    (own_clusters / "bad.yaml").write_text("scheduler: local\nslurm: {qos: high}\nmaster_addr_suffix: i\n")
    with pytest.raises(InvalidSpec) as refusal:
        load_cluster("bad")
    lines = [line.removeprefix(f"{own_clusters}/") for line in refusal.value.problems]
    assert lines == [
        'bad.yaml:2: slurm={"qos": "high"}: is for scheduler: slurm',
        "bad.yaml:3: master_addr_suffix=i: is for scheduler: slurm",
    ]


def test_a_profile_that_is_not_there() -> None:
    with pytest.raises(NotFound, match="no cluster profile juwels; did you mean juwels-booster"):
        load_cluster("juwels")
    with pytest.raises(NotFound, match="there are juwels-booster, local"):
        load_cluster("x")


def test_names_are_known_without_reading_a_file() -> None:
    """Completion asks for them on every press of the tabulator key."""
    program = (
        "import sys; from clipctl.presets import preset_names, cluster_names; assert preset_names() + cluster_names();"
        "print(sorted({'pydantic', 'ruamel', 'jinja2', 'typer'} & {name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
