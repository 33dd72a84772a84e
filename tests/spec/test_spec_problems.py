"""Every mistake at once, each with its place, its value, the rule, and what to type instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clipctl.errors import InvalidSpec, NotFound
from clipctl.spec import missing_data, patched, resolve


def problems(*sets: str, argument: str = "demo", name: str | None = None) -> tuple[str, ...]:
    with pytest.raises(InvalidSpec) as refusal:
        resolve(argument, sets=sets, name=name)
    return refusal.value.problems


ONE_MISTAKE = [
    ("train.epochs=-3", "train.epochs=-3: must be 1 or more"),
    ("train.batch_size=0", "train.batch_size=0: must be 1 or more"),
    ("train.batch_size=2e2", "train.batch_size=2e2: must be a whole number in digits; did you mean 200?"),
    ("train.batch_size=200M", "train.batch_size=200M: must be a whole number in digits"),
    ("train.epochs=99999999999999999999", "train.epochs=99999999999999999999: must be 9007199254740992 or less"),
    ("train.optim.lr=0", "train.optim.lr=0: must be more than 0"),
    ("train.optim.lr=fast", "train.optim.lr=fast: must be a number, such as 5e-4"),
    ("train.optim.eps=nan", "train.optim.eps=nan: must be a finite number"),
    ("train.optim.eps=inf", "train.optim.eps=inf: must be a finite number"),
    ("train.optim.beta1=1", "train.optim.beta1=1: must be less than 1"),
    ("train.tf32=maybe", "train.tf32=maybe: must be true or false"),
    ("train.precision=fp23", "train.precision=fp23: must be one of amp_fp16, amp_bf16, fp32; did you mean fp32?"),
    ("train.optim.learning_rate=1", "train.optim.learning_rate: no such key; did you mean train.optim.lr?"),
    ("train.precison=amp", "train.precison: no such key; did you mean train.precision?"),
    ("epochs=3", "epochs: no such key; did you mean train.epochs?"),
    ("quux=1", "quux: no such key"),
    ("train..epochs=1", "train.: no such key; did you mean train?"),
    ("train.model=", "train.model: has no value and needs one"),
    ("train=3", "train=3: must be a map, such as {key: value}"),
    ("train.optim=[]", "train.optim=[]: must be a map, such as {key: value}"),
    ("train.faults=overflow", "train.faults=overflow: must be a list, such as [a, b]"),
    ("train.faults.0.kind=hang", 'train.faults={"0": {"kind": "hang"}}: must be a list, such as [a, b]'),
    (
        "train.faults=[{kind: overfow, at_epoch: 2}]",
        "train.faults.0.kind=overfow: must be one of overflow, plateau, hang, crash, slow_rank; did you mean overflow?",
    ),
    ("train.faults=[{kind: hang, at_epoch: 11}]", "train.faults.0.at_epoch=11: must be at most train.epochs=10"),
    (
        "train.faults=[{kind: hang, at_epoch: 1, at_step: 1000}]",
        "train.faults.0.at_step=1000: must be at most 40, the steps of an epoch",
    ),
    (
        "train.faults=[{kind: hang, at_epoch: 1, rank: 2}]",
        "train.faults.0.rank=2: must be less than 2, the number of ranks",
    ),
    (
        "train.save.keep_last=2",
        "train.save.keep_last=2: must be 3 or more: a divergence goes back recovery.rollback_epochs=1, plus two",
    ),
    ("train.optim.warmup=400", "train.optim.warmup=400: must be less than the run's 400 steps; try 40"),
    (
        "train.optim.lr_scheduler=const-cooldown",
        "train.optim.lr_scheduler=const-cooldown: needs train.optim.epochs_cooldown, in epochs; try 1",
    ),
    (
        "train.optim.epochs_cooldown=3",
        "train.optim.epochs_cooldown=3: is for train.optim.lr_scheduler=const-cooldown alone",
    ),
    ("precisions.fp32.batchsize=3", "precisions.fp32.batchsize: no such key; did you mean precisions.fp32.batch_size?"),
    ("precisions.fp32.batch_size=0", "precisions.fp32.batch_size=0: must be 1 or more"),
    (
        "precisions.fp32.precision=amp",
        "precisions.fp32.precision: a profile cannot change the precision that it belongs to",
    ),
    (
        "precisions.bf32.batch_size=3",
        "precisions.bf32=bf32: must be one of amp_fp16, amp_bf16, fp32; did you mean fp32?",
    ),
    ("resources.nodes=2", "resources.nodes=2: must be 1: local is this machine alone"),
    (
        "train.data.train_data=pipe:cat /etc/passwd",
        'train.data.train_data="pipe:cat /etc/passwd": must be a file, unless pipe is allowed by name: '
        "train.data.allowed_schemes=[pipe]",
    ),
    (
        "train.data.train_data=s3://x/y.tar",
        "train.data.train_data=s3://x/y.tar: must be a file; pipe: and URLs are not read: "
        "copy it to a disk that all ranks see",
    ),
    (
        "train.zeroshot.data=https://x/y.tar",
        "train.zeroshot.data=https://x/y.tar: must be a file; pipe: and URLs are not read: "
        "copy it to a disk that all ranks see",
    ),
    (
        "train.data.train_data=/x/{0..9",
        "train.data.train_data=/x/{0..9: must have braces in pairs, not nested, and no backslash",
    ),
    (
        "train.data.train_data=/x/{0..9999999}.tar",
        "train.data.train_data=/x/{0..9999999}.tar: must not name more than 1,000,000 files",
    ),
    (
        "train.data.train_data=/x/0.tar::pipe:cat /etc/passwd",
        'train.data.train_data="pipe:cat /etc/passwd": must be a file, unless pipe is allowed by name: '
        "train.data.allowed_schemes=[pipe]",
    ),
    (
        "train.data.train_data_upsampling_factors=2::1",
        "train.data.train_data_upsampling_factors=2::1: must be as many as train.data.train_data has sources, "
        "which is 1",
    ),
    *(
        (
            f"train.data.train_data_upsampling_factors={factor}",
            f"train.data.train_data_upsampling_factors={factor}: must be numbers above 0 with :: between them, "
            "such as 2::1",
        )
        for factor in ("0", "-1", "inf", "nan", "twice")
    ),
    (
        "train.data.dataset_type=cvs",
        "train.data.dataset_type=cvs: must be one of webdataset, csv, synthetic; did you mean csv?",
    ),
    (
        "train.data.csv_separator=;;",
        r"train.data.csv_separator=;;: must be one of \\t, ,, ;, |; did you mean ;?",
    ),
    (
        "train.zeroshot.classes=digit",
        "train.zeroshot.classes=digit: must be one of imagenet, digits; did you mean digits?",
    ),
    ("cluster=locale", "cluster=locale: no cluster profile locale; did you mean local?"),
    ("prepare=digit", "prepare=digit: must be digits; did you mean digits?"),
    ("recovery.rollback_epochs=-1", "recovery.rollback_epochs=-1: must be 0 or more"),
    ("train.epochs", "--set train.epochs: must be KEY=VALUE, such as --set train.optim.lr=5e-4"),
    ("=3", "--set =3: must be KEY=VALUE, such as --set train.optim.lr=5e-4"),
    ("train.data.workers=[1, 2", 'train.data.workers="[1, 2": must be a whole number in digits'),
]


@pytest.mark.parametrize(("typed", "line"), ONE_MISTAKE)
def test_a_mistake_is_one_line_that_says_what_to_type(typed: str, line: str) -> None:
    assert problems("resources.ranks_per_node=2", "train.data.train_num_samples=3840", typed) == (line,)


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("a/b", "a-b"),
        ("two words", "two-words"),
        ("../up", "up"),
        (".hidden", "hidden"),
        ("ä-run", "run"),
        ("x" * 65, "x" * 64),
    ],
)
def test_a_name_that_is_no_folder_name_is_refused_with_one_that_is(name: str, instead: str) -> None:
    (line,) = problems(name=name)
    assert line.endswith(f"must be 1 to 64 of A-Z a-z 0-9 . _ - and begin with a letter or a digit; try {instead}")


@pytest.mark.parametrize("character", ["\n", "\t", "\x1b", "\x00", "\x7f", "\x85", "\u2028", "\u2029", "\udcff"])
def test_control_characters_are_refused_everywhere_and_not_printed(character: str) -> None:
    spec = resolve("demo")
    for path in ("name", "train.model", "train.zeroshot.classes", "root"):
        with pytest.raises(InvalidSpec) as refusal:
            patched(spec, {path: f"/a{character}b"})
        assert [line.partition("=")[0] for line in refusal.value.problems] == [path]
        assert character not in refusal.value.message


def test_all_mistakes_are_told_at_once_with_their_lines(spec_file: Callable[..., str]) -> None:
    file = spec_file(
        "extends: l14-laion2b\n"
        "name: a/b\n"
        "cluster: juwels\n"
        "train:\n"
        "  epochs: -3\n"
        "  batch_size: 0\n"
        "  optim:\n"
        "    learning_rate: 1e-3\n"
        "  save: {keep_last: 7}\n"
        "  data:\n"
        "    train_data: shards/{000..011}.tar\n"
        "  faults:\n"
        "    - kind: overflow\n"
        "      at_epoch: soon\n"
        "precisions.amp_bf16.batchsize: 96\n"
    )
    told = {line.removeprefix(f"{file}:").split(": ")[0]: line for line in problems(argument=file)}
    assert sorted(told, key=int) == ["2", "3", "5", "6", "8", "9", "11", "14", "15"]
    assert "must be 8 or more" in told["9"]
    assert told["11"].endswith(f"try {Path.cwd()}/shards/{{000..011}}.tar")


def test_a_rule_that_rests_on_a_wrong_value_waits_for_it() -> None:
    assert problems("train.save.keep_last=1", "recovery.rollback_epochs=x") == (
        "recovery.rollback_epochs=x: must be a whole number in digits",
    )


def test_shards_that_are_no_files_are_for_those_who_allow_them() -> None:
    allowed = ("train.data.train_data=https://x/{0..9}.tar::/y/0.tar", "train.data.allowed_schemes=[https]")
    spec = resolve("demo", sets=[*allowed, "train.zeroshot=null"])
    assert "1 of 11 files are not there: /y/0.tar" in missing_data(spec)[0]
    assert problems(*allowed, "train.data.dataset_type=csv", "train.data.dataset_resampled=true")[0] == (
        'train.data.allowed_schemes=["https"]: is for webdataset shards, not for train.data.dataset_type=csv'
    )
    assert problems("train.data.train_data=https://x/it's.tar", "train.data.allowed_schemes=[https]") == (
        "train.data.train_data=https://x/it's.tar: must be without ' and blanks, as curl is told it by a shell",
    )
    assert problems("train.data.allowed_schemes=[s3]") == (
        "train.data.allowed_schemes.0=s3: must be one of http, https, pipe",
    )


def test_factors_are_for_shards_that_are_drawn() -> None:
    drawn = ("train.data.train_data=/x/{0..9}.tar::/y/{0..9}.tar", "train.data.train_data_upsampling_factors=2::0.5")
    assert resolve("demo", sets=drawn).train.data.train_data_upsampling_factors == "2::0.5"
    assert problems(*drawn, "train.data.dataset_resampled=false") == (
        "train.data.train_data_upsampling_factors=2::0.5: is by what shards are drawn; "
        "train.data.dataset_resampled=true draws them",
    )


def test_what_is_for_shards_is_refused_with_other_sets() -> None:
    sets = ("train.data.dataset_type=csv", "train.data.max_punsafe=0.5")
    assert problems(*sets) == (
        "train.data.max_punsafe=0.5: is for webdataset shards, not for train.data.dataset_type=csv",
    )


def test_a_model_is_shared_out_where_there_is_one_and_somebody_to_share_it_with() -> None:
    fsdp = "train.parallel=fsdp"
    sound = (fsdp, "resources.ranks_per_node=2", "train.ddp_static_graph=false")
    assert resolve("demo", sets=sound).train.parallel == "fsdp"
    assert problems(fsdp, "resources.ranks_per_node=1", "train.ddp_static_graph=false") == (
        "train.parallel=fsdp: shares a model out among ranks, and there is one; train.parallel=ddp",
    )
    assert problems(fsdp, "resources.ranks_per_node=2", "train.ddp_static_graph=true") == (
        "train.ddp_static_graph=true: is for train.parallel=ddp; "
        "train.ddp_static_graph=false goes with train.parallel=fsdp",
    )
    assert problems(fsdp, "train.engine=rehearsal", "resources.ranks_per_node=2", "train.ddp_static_graph=false") == (
        "train.parallel=fsdp: is for train.engine=torch; a rehearsal's model is a few hundred numbers",
    )
    (line,) = problems("train.parallel=zero")
    assert line == "train.parallel=zero: must be one of ddp, fsdp"


def test_what_is_missing_is_named_with_an_example(spec_file: Callable[..., str]) -> None:
    file = spec_file("cluster: local\ntrain: {data: {train_num_samples: 10}}\n")
    assert problems(argument=file) == (
        f"{file}:2: train.model: is missing; for example train.model=ViT-L-14",
        f"{file}:2: train.data.train_data: is missing; for example train.data.train_data=/data/{{00000..00099}}.tar",
        f"{file}:2: train.epochs: is missing; for example train.epochs=32",
        f"{file}:2: train.batch_size: is missing; for example train.batch_size=208",
    )


def test_more_ranks_than_gpus_are_refused() -> None:
    (line,) = problems("resources.ranks_per_node=5", argument="l14-laion2b")
    assert line == "resources.ranks_per_node=5: must be at most 4, the GPUs of a node of juwels-booster"


def test_home_and_variables_are_not_expanded_but_what_was_meant_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    assert problems("train.data.train_data=$SCRATCH/a.tar")[0].endswith("try /scratch/me/a.tar")


def test_a_preset_that_is_not_there() -> None:
    with pytest.raises(NotFound, match="no preset demmo; did you mean demo"):
        resolve("demmo")


# --- what only the disk can tell ----------------------------------------------------------------------


def make(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def test_a_pattern_that_matches_nothing(tmp_path: Path) -> None:
    pattern = f"{tmp_path}/{{0..2}}.tar"
    spec = resolve("demo", sets=[f"train.data.train_data={pattern}", "train.zeroshot=null"])
    (line,) = missing_data(spec)
    assert line.startswith("train.data.train_data=")
    assert line.endswith(f": matches no file; {tmp_path}/0.tar and all others are not there")


def test_a_few_missing_shards_are_named(tmp_path: Path) -> None:
    make(tmp_path / "shards", "0.tar", "2.tar")
    pattern = f"{tmp_path}/shards/{{0..3}}.tar"
    spec = resolve("demo", sets=[f"train.data.train_data={pattern}", "train.zeroshot=null"])
    (line,) = missing_data(spec)
    assert line.endswith(f"2 of 4 files are not there: {tmp_path}/shards/1.tar, {tmp_path}/shards/3.tar")


def test_all_sources_are_looked_for(tmp_path: Path) -> None:
    make(tmp_path / "a", "0.tar", "1.tar")
    pattern = f"{tmp_path}/a/{{0..1}}.tar::{tmp_path}/b/0.tar"
    (line,) = missing_data(resolve("demo", sets=[f"train.data.train_data={pattern}", "train.zeroshot=null"]))
    assert line.endswith(f": 1 of 3 files are not there: {tmp_path}/b/0.tar")


def test_without_replacement_every_reader_needs_a_shard(tmp_path: Path) -> None:
    make(tmp_path, "0.tar", "1.tar", "2.tar")
    sets = [f"train.data.train_data={tmp_path}/{{0..2}}.tar", "train.zeroshot=null"]
    sets += ["resources.ranks_per_node=2", "train.data.workers=2", "train.data.dataset_resampled=false"]
    (line,) = missing_data(resolve("demo", sets=sets))
    assert "has 3 shards for 4 readers (ranks x workers)" in line
    assert missing_data(resolve("demo", sets=[*sets, "train.data.dataset_resampled=true"])) == ()
    assert missing_data(resolve("demo", sets=[*sets, "train.data.workers=1"])) == ()


def test_zero_shot_data_that_is_not_there(tmp_path: Path) -> None:
    make(tmp_path, "0.tar")
    spec = resolve("demo", sets=[f"train.data.train_data={tmp_path}/0.tar", f"train.zeroshot.data={tmp_path}/val"])
    (line,) = missing_data(spec)
    assert line == f"train.zeroshot.data={tmp_path}/val: is not there; train.zeroshot=null trains without"
    make(tmp_path / "val")
    assert missing_data(spec) == ()


def test_a_csv_set_is_one_file_and_a_synthetic_one_is_none(tmp_path: Path) -> None:
    sets = [f"train.data.train_data={tmp_path}/pairs.csv", "train.zeroshot=null", "train.data.dataset_type=csv"]
    (line,) = missing_data(resolve("demo", sets=[*sets, "train.data.csv_separator=,"]))
    assert line.endswith(": is no file that is there; a csv set is one file with a header")
    make(tmp_path, "pairs.csv")
    assert missing_data(resolve("demo", sets=sets)) == ()
    nothing = ["train.data.train_data=none", "train.zeroshot=null", "train.data.dataset_type=synthetic"]
    assert missing_data(patched(resolve("demo", sets=nothing), {"train.data.workers": 1})) == ()


def test_a_rehearsal_makes_its_own_data(tmp_path: Path) -> None:
    nowhere = [f"train.data.train_data={tmp_path}/nowhere.tar", f"train.zeroshot.data={tmp_path}/val"]
    assert missing_data(resolve("demo", sets=[*nowhere, "train.engine=rehearsal"])) == ()
    assert len(missing_data(resolve("demo", sets=nowhere))) == 2
