"""What may be asked of sbatch, whose word wins, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipctl.errors import InvalidSpec
from clipctl.spec import RunSpec, load_cluster, patched, resolve, spec_from_json, spec_to_json
from clipctl.spec.run import keys

PROFILE = """
scheduler: slurm
gpus_per_node: 4
root: /scratch/me
slurm:
  partition: booster
  account: ours
  time: 24:00:00
  mem: 480G
"""


@pytest.fixture(autouse=True)
def profile(tmp_path: Path) -> Path:
    file = tmp_path / "config/clipctl/clusters/big.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(PROFILE)
    return file


def asked(*sets: str) -> RunSpec:
    return resolve("demo", cluster="big", sets=["train.data.train_num_samples=100000", "train.batch_size=8", *sets])


def problems(*sets: str) -> tuple[str, ...]:
    with pytest.raises(InvalidSpec) as refusal:
        asked(*sets)
    return refusal.value.problems


def test_the_run_s_word_wins_over_the_cluster_s() -> None:
    spec = asked("slurm.time=02:00:00", "slurm.qos=high", "slurm.account=")
    assert spec.slurm.given() == {"partition": "booster", "time": "02:00:00", "qos": "high", "mem": "480G"}


def test_a_later_change_of_the_profile_changes_no_run(profile: Path) -> None:
    spec = asked()
    profile.write_text(PROFILE.replace("ours", "theirs"))
    assert spec_from_json(spec_to_json(spec)).slurm.account == "ours"
    assert patched(spec, {"train.precision": "fp32"}).slurm.account == "ours"
    assert patched(spec, {"slurm.exclude": "jwb0007"}).slurm.directives()["exclude"] == "jwb0007"


@pytest.mark.parametrize(("text", "option"), [("010", "account"), ("1e3", "qos"), ("on", "reservation"), ("0", "mem")])
def test_a_text_that_looks_like_something_else_stays_text(text: str, option: str) -> None:
    assert asked(f"slurm.{option}={text}").slurm.directives()[option] == text


def test_options_are_spelled_as_sbatch_does() -> None:
    sets = [
        "cpus_per_task=6",
        "mail_type=[END, FAIL]",
        "contiguous=true",
        "exclusive=false",
        "gpu_type=a100",
        "nice=0",
    ]
    directives = asked(*(f"slurm.{text}" for text in sets)).slurm.directives()
    own = {name: text for name, text in directives.items() if name not in ("partition", "account", "time", "mem")}
    assert own == {"cpus-per-task": "6", "mail-type": "END,FAIL", "contiguous": "", "nice": "0"}


WRONG = [
    ("time=1 day", 'time="1 day": must be hours:minutes:seconds or days-hours:minutes:seconds, such as 24:00:00'),
    ("exclude=a[1-", "exclude=a[1-: must be names of nodes as Slurm writes them, such as jwb[0001-0004,0010],jwb0100"),
    ("partition=--x", "partition=--x: must be names with commas between them, such as booster or booster,develbooster"),
    ("constraint=a b", 'constraint="a b": must be features as Slurm writes them, such as largedata or a100&nvme'),
    ("account=x y", 'account="x y": must be one name, of A-Z a-z 0-9 _ . @ + -'),
    ("mail_user=me@site org", 'mail_user="me@site org": must be one address or user name, such as me@site.org'),
    ("mail_type=[DONE]", "mail_type.0=DONE: must be one of BEGIN, END, FAIL, REQUEUE, TIME_LIMIT, TIME_LIMIT_90, "
     "TIME_LIMIT_80, ALL, NONE; did you mean NONE?"),
    ("mem=lots", "mem=lots: must be a whole number with K, M, G or T, such as 480G; without a letter it means M"),
    ("begin=tomorrow", "begin=tomorrow: must be now+2hours or a date and time, such as 2026-11-24T20:00"),
    ("hint=fast", "hint=fast: must be one of compute_bound, memory_bound, multithread, nomultithread"),
    ("nice=-5", "nice=-5: must be 0 or more"),
    ("save_before_end=0", "save_before_end=0: must be 1 or more"),
    ("partiton=x", "partiton: no such key; did you mean slurm.partition?"),
    ("mem_per_gpu=40G", "mem_per_gpu=40G: cannot be given with slurm.mem=480G; slurm.mem=null takes that out"),
]  # fmt: skip


@pytest.mark.parametrize(("typed", "line"), WRONG)
def test_a_wrong_option_is_one_line_that_says_what_to_type(typed: str, line: str) -> None:
    assert problems(f"slurm.{typed}") == (f"slurm.{line}",)


@pytest.mark.parametrize(
    "option",
    ["job_name", "comment", "dependency", "requeue", "no_requeue", "output", "error", "open_mode", "export", "signal",
     "array", "chdir", "wait", "nodes", "ntasks", "ntasks_per_node", "gres", "wrap", "get_user_env", "uid"],
)  # fmt: skip
def test_what_a_job_is_known_by_cannot_be_given(option: str) -> None:
    (line,) = problems(f"slurm.{option}=x")
    assert line.startswith(f"slurm.{option}: no such key")


def test_every_option_has_a_dotted_path() -> None:
    assert {"slurm.time", "slurm.save_before_end", "slurm.mail_type"} < set(keys())


@pytest.mark.parametrize("text", ["1\n", "a\tb", "a\u2028", "٢:00:00", "a'b", "a;b", "a b", "$(a)", "a\\b", "%j"])
def test_no_option_lets_anything_in_that_a_shell_or_sbatch_would_read(text: str) -> None:
    for option in ("partition", "account", "constraint", "exclude", "licenses", "mail_user", "time", "distribution"):
        with pytest.raises(InvalidSpec):
            patched(asked(), {f"slurm.{option}": text})


def test_this_machine_has_no_use_for_them() -> None:
    with pytest.raises(InvalidSpec) as refusal:
        resolve("demo", sets=["slurm.time=02:00:00", "slurm.qos=high", "recovery.standby=true"])
    assert refusal.value.problems == (
        "slurm.qos=high: is for Slurm; local is this machine alone",
        "slurm.time=02:00:00: is for Slurm; local is this machine alone",
        "recovery.standby=true: waits in a queue, and local has none",
    )


@pytest.mark.parametrize("folder", ["/scratch/100%", "/scratch/%j", "/scratch/a\\b"])
def test_a_folder_that_slurm_would_read_in_its_own_way_is_refused(folder: str) -> None:
    (line,) = problems(f"root={folder}")
    assert line.startswith(f"root={folder}: must be without ") and line.endswith("which Slurm reads its own way")


@pytest.mark.parametrize(
    ("sets", "lead"),
    [
        ((), 600),
        (("slurm.time=",), 600),
        (("slurm.time=1-00:00:00", "slurm.save_before_end=1800"), 1800),
        (("slurm.time=00:20:00",), 120),
        (("slurm.time=00:02:00",), 12),
        (("slurm.time=00:01:00",), None),  # the signal may come a minute early: ranks would stop as they start
        (("slurm.time=00:02:00", "slurm.save_before_end=60"), 60),
    ],
)
def test_ranks_are_told_in_time_to_save(sets: tuple[str, ...], lead: int | None) -> None:
    assert asked(*sets).slurm.lead == lead


def test_a_warning_before_the_job_has_begun_is_refused() -> None:
    rule = "must be 60 or less: of slurm.time=00:02:00, and Slurm may be a minute early"
    assert problems("slurm.time=00:02:00", "slurm.save_before_end=61") == (f"slurm.save_before_end=61: {rule}",)


def test_the_packaged_profile_needs_an_account_of_one_s_own() -> None:
    assert load_cluster("juwels-booster").slurm.account is None
