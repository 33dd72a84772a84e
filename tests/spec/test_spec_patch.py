"""The one way to change a spec: extends, --set, a precision with its profile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pydantic
import pytest

from clipctl.errors import InvalidSpec, NotFound
from clipctl.spec import diff, patched, resolve
from trainer.contract import Precision


def test_a_precision_brings_its_profile_along() -> None:
    l14 = resolve("l14-laion2b")
    assert (l14.train.precision, l14.train.batch_size) == ("amp_fp16", 208)
    fp32 = patched(l14, {"train.precision": "fp32"})
    assert diff(l14, fp32) == {"train.precision": "fp32", "train.batch_size": 224}
    assert patched(fp32, {"train.precision": Precision.AMP_FP16}) == l14


def test_what_is_typed_wins_over_the_profile_in_any_order() -> None:
    l14 = resolve("l14-laion2b")
    patch = {"train.batch_size": 100, "train.precision": "fp32"}
    assert patched(l14, patch).train.batch_size == 100
    assert patched(l14, {"train": {"batch_size": 100, "precision": "fp32"}}).train.batch_size == 100
    sets = ["train.batch_size=100", "train.precision=fp32"]
    assert resolve("l14-laion2b", sets=sets).train.batch_size == 100
    assert resolve("l14-laion2b", sets=sets[::-1]).train.batch_size == 100


def test_a_preset_launched_in_another_precision_takes_its_profile() -> None:
    assert resolve("demo", sets=["train.precision=amp_bf16"]).train.batch_size == 40
    assert resolve("demo", sets=["train.precision=amp"]).train.batch_size == 32  # open_clip's word for amp_fp16


def test_a_profile_can_be_named_by_open_clip_s_word() -> None:
    l14 = resolve("l14-laion2b", sets=["precisions.amp.batch_size=200", "train.precision=amp"])
    assert l14.train.batch_size == 200
    assert l14.precisions[Precision.AMP_FP16] == {"batch_size": 200}


def test_a_precision_without_a_profile_changes_nothing_else() -> None:
    l14 = resolve("l14-laion2b")
    assert diff(l14, patched(l14, {"train.precision": "amp_bf16"})) == {"train.precision": "amp_bf16"}


def test_a_profile_that_comes_with_the_patch_is_used() -> None:
    patch = {"train.precision": "amp_bf16", "precisions.amp_bf16": {"batch_size": 96, "optim.lr": "5e-4"}}
    bf16 = patched(resolve("l14-laion2b"), patch)
    assert (bf16.train.batch_size, bf16.train.optim.lr) == (96, 5e-4)
    assert bf16.precisions[Precision.AMP_BF16] == {"batch_size": 96, "optim.lr": 5e-4}  # typed, not as written


def test_maps_merge_and_lists_replace() -> None:
    demo = resolve("demo", sets=["train.faults=[{kind: hang, at_epoch: 1}, {kind: crash, at_epoch: 2}]"])
    assert patched(demo, {"train.optim": {"lr": 1}}).train.optim.wd == demo.train.optim.wd
    other = patched(demo, {"train.faults": [{"kind": "plateau", "at_epoch": 3}]})
    assert [fault.kind for fault in other.train.faults] == ["plateau"]
    assert patched(demo, {"train.faults": []}).train.faults == ()


def test_a_section_can_be_switched_off_and_on() -> None:
    off = patched(resolve("demo"), {"train.zeroshot": None})
    assert off.train.zeroshot is None
    on = patched(off, {"train.zeroshot.data": "/x.tar"})
    assert on.train.zeroshot is not None
    assert on.train.zeroshot.data == "/x.tar"


def test_a_patch_is_validated_and_the_spec_stays_as_it_was() -> None:
    demo = resolve("demo")
    with pytest.raises(InvalidSpec, match=r"train\.optim\.learning_rate: no such key; did you mean train\.optim\.lr\?"):
        patched(demo, {"train.optim.learning_rate": 1})
    with pytest.raises(InvalidSpec, match="must be 1 or more"):
        patched(demo, {"train.batch_size": 0})
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        demo.name = "other"  # type: ignore[misc]
    assert demo == resolve("demo")


def test_diff_is_the_patch_that_leads_there() -> None:
    demo = resolve("demo")
    for patch in (
        {"train.zeroshot": None},
        {"train.optim.lr": 0.25, "name": "other"},
        {"train.faults": [{"kind": "hang", "at_epoch": 1}], "train.precision": "amp_bf16"},
        {"train.save.keep_last": None, "precisions.fp32.batch_size": 7},
    ):
        other = patched(demo, patch)
        assert patched(demo, diff(demo, other)) == other
        assert patched(other, diff(other, demo)) == demo
    assert diff(demo, demo) == {}


# --- files that extend --------------------------------------------------------------------------------


def test_a_file_extends_a_preset_and_says_only_what_differs(spec_file: Callable[..., str]) -> None:
    file = spec_file("extends: l14-laion2b\ntrain:\n  precision: fp32\n  optim.lr: 5e-4\n", "colder.yaml")
    spec = resolve(file)
    assert spec.name == "colder"  # not the name of what it extends
    assert (spec.train.batch_size, spec.train.optim.lr, spec.train.optim.warmup, spec.ranks) == (224, 5e-4, 10_000, 384)


def test_a_file_extends_a_file_next_to_it(spec_file: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    spec_file("extends: demo\ntrain.epochs: 3\ntrain.seed: 1\n", "base.yaml")
    file = spec_file("extends: ./base.yaml\nname: chosen\ntrain.seed: 2\n")
    monkeypatch.chdir("/")
    spec = resolve(file, sets=["train.log_every_n_steps=1"])
    assert (spec.name, spec.train.epochs, spec.train.seed, spec.train.log_every_n_steps) == ("chosen", 3, 2, 1)


def test_files_that_extend_in_a_circle_are_refused(spec_file: Callable[..., str]) -> None:
    spec_file("extends: two.yaml\n", "one.yaml")
    spec_file("extends: one.yaml\n", "two.yaml")
    with pytest.raises(InvalidSpec, match=r"extends itself: .*one\.yaml -> .*two\.yaml -> .*one\.yaml$") as refusal:
        resolve(spec_file("extends: one.yaml\n", "three.yaml"))
    assert refusal.value.message.count(" -> ") == 3


def test_what_is_extended_must_be_there(spec_file: Callable[..., str]) -> None:
    with pytest.raises(NotFound, match="no preset l14-laion; did you mean l14-laion2b"):
        resolve(spec_file("extends: l14-laion\n"))
    with pytest.raises(NotFound, match=r"none\.yaml: no such file"):
        resolve(spec_file("extends: none.yaml\n"))
    with pytest.raises(InvalidSpec, match=":1: extends: must be one name or path"):
        resolve(spec_file("extends: [demo, l14-laion2b]\n"))


def test_name_and_cluster_of_the_command_line_win(spec_file: Callable[..., str]) -> None:
    file = spec_file("extends: l14-laion2b\nname: filed\nresources: {nodes: 1}\n")
    spec = resolve(file, name="typed", cluster="local")
    assert (spec.name, spec.cluster) == ("typed", "local")
    assert resolve("demo", sets=["name=set"]).name == "set"
    assert resolve("demo", sets=["name=set"], name="typed").name == "typed"


# --- what depends on this machine ---------------------------------------------------------------------


def test_home_is_put_in_where_a_path_begins_with_it(own_home: Path) -> None:
    spec = resolve("demo")
    assert spec.train.data.train_data == f"{own_home}/data/digits/train-{{000000..000007}}.tar"
    both = "train.data.train_data=${CLIPCTL_HOME}/a.tar::${CLIPCTL_HOME}/b.tar"
    assert resolve("demo", sets=[both]).train.data.train_data == f"{own_home}/a.tar::{own_home}/b.tar"
    assert spec.root == own_home
    assert resolve("demo", sets=["root=${CLIPCTL_HOME}/elsewhere"]).root == own_home / "elsewhere"
    assert resolve("demo", sets=["train.model=${CLIPCTL_HOME}s"]).train.model == "${CLIPCTL_HOME}s"


def test_automatic_ranks_are_numbers_once_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, ranks in (1, 1), (2, 2), (64, 2):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert resolve("demo").resources.ranks_per_node == ranks
    assert resolve("l14-laion2b", sets=["resources.ranks_per_node=auto"]).resources.ranks_per_node == 4
