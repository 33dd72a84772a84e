"""`clipctl data check`: what it says of shards, to people and to programs, and that nothing of it stays behind."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clipctl.errors import ExitStatus
from tests.cli.conftest import Clipctl
from tests.dataset.tars import image, pair, write_samples

PATIENCE = 60.0  # seconds; generous, for busy machines


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """Four shards with five pairs each, as a pattern."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(4):
        write_samples(folder / f"{shard}.tar", {f"{shard}{number}": pair(number) for number in range(5)})
    return f"{folder}/{{0..3}}.tar"


def test_sound_shards_are_described(clipctl: Clipctl, shards: str) -> None:
    said = clipctl("data", "check", shards, "--jobs", "1")
    assert (said.code, said.err) == (ExitStatus.OK, "")
    first, *facts = said.out.splitlines()
    assert first.startswith("4 shards, ") and first.endswith("/s with --jobs 1")
    assert [line.split()[0] for line in facts] == (
        ["samples", "bad", "images", "width", "height", "captions", "safety", "img2dataset"]
    )
    assert "20, of which 20 are image-text pairs that can be used" in said.out
    assert "6 / 6 / 6 pixels (min / median / max)" in said.out


def test_images_are_described_by_their_smallest_middle_and_largest(clipctl: Clipctl, tmp_path: Path) -> None:
    samples = {str(number): {"png": image(number, 5), "txt": b"x"} for number in (900, 10, 30, 10, 20, 40)}
    said = clipctl("data", "check", str(write_samples(tmp_path / "0.tar", samples)), "--jobs", "1")
    assert "width        10 / 30 / 900 pixels (min / median / max)" in said.out


def test_what_is_wrong_is_said_line_by_line_with_a_code(clipctl: Clipctl, shards: str) -> None:
    folder = Path(shards).parent
    html, bare = {"jpg": b"<html>", "txt": b"x"}, {"jpg": image()}
    write_samples(folder / "1.tar", {"10": pair(), "11": html, "12": bare, "13": html})
    os.truncate(folder / "2.tar", 1000)
    said = clipctl("data", "check", shards, "--jobs", "1")
    assert said.code == ExitStatus.INVALID
    assert "5 that the trainer would skip and count" not in said.out
    assert "4 that the trainer would skip and count" in said.out
    assert said.err.splitlines() == [
        f"error: shards that are cut, damaged or not there: 1; the first is {folder}/2.tar: unexpected end of data",
        f"error: images that cannot be read: 2; the first is {folder}/1.tar: "
        "11: no JPEG, PNG, WebP or GIF: it begins with b'<html>'",
        f"error: images without text: 1; the first is {folder}/1.tar: 12",
        f"hint: tar -tvf {folder}/1.tar",
    ]


@pytest.mark.parametrize("run", [False, True], ids=["alone", "for a run"])
def test_shards_without_one_pair_are_not_sound(clipctl: Clipctl, tmp_path: Path, run: bool) -> None:
    shard = write_samples(tmp_path / "0.tar", {})
    arguments = ("demo", "--set", f"train.data.train_data={shard}") if run else (str(shard),)
    said = clipctl("data", "check", *arguments)
    assert said.code == ExitStatus.INVALID
    assert said.err.splitlines()[0] == "error: there is not one image-text pair that can be used"


def test_programs_get_numbers(clipctl: Clipctl, shards: str) -> None:
    said = clipctl("data", "check", shards, "--json", "--jobs", "1")
    told = json.loads(said.out)
    assert (said.code, told["schema"], told["shards"], told["problems"]) == (ExitStatus.OK, 1, 4, [])
    assert (told["found"]["pairs"], told["found"]["widths"], told["allocation"]) == (20, {"6": 20}, None)
    Path(shards).with_name("3.tar").unlink()
    said = clipctl("data", "check", shards, "--json", "--jobs", "1")
    told = json.loads(said.out)
    assert said.code == ExitStatus.INVALID
    assert said.err.splitlines()[0] == f"error: {told['problems'][0]}"


def test_for_a_run_it_says_what_the_shards_mean_for_it(clipctl: Clipctl, shards: str) -> None:
    run = ("data", "check", "demo", "--jobs", "1", "--set", f"train.data.train_data={shards}")
    said = clipctl(*run, "--set", "resources.ranks_per_node=2", "--set", "train.data.train_num_samples=3840")
    assert said.code == ExitStatus.OK
    assert "for 2 ranks on 1 node\n  an epoch  3,840 samples, 1,920 a rank; shards are drawn" in said.out
    assert "  passes    192.00 an epoch through the whole set" in said.out
    said = clipctl(*run, "--set", "train.data.dataset_resampled=false", "--set", "train.data.workers=6")
    assert said.code == ExitStatus.INVALID
    assert "4 shards are too few for " in said.err


def test_some_shards_can_stand_for_all(clipctl: Clipctl, shards: str) -> None:
    Path(shards).with_name("0.tar").unlink()
    said = clipctl("data", "check", shards, "--sample", "2", "--jobs", "1", "--json")
    told = json.loads(said.out)
    assert (said.code, told["shards"], told["found"]["shards"], told["found"]["pairs"]) == (ExitStatus.OK, 4, 2, 10)
    assert clipctl("data", "check", shards, "--sample", "2", "--jobs", "1").out.startswith("2 of 4 shards, ")


def test_several_processes_find_what_one_finds(process: Clipctl, shards: str) -> None:
    os.truncate(Path(shards).with_name("2.tar"), 1000)
    often = shards.replace("{0..3}", "{0..3}{,}{,}")  # each of them four times
    one, two = (process("data", "check", often, "--json", "--jobs", jobs) for jobs in "12")
    assert (one.code, one.err) == (two.code, two.err) == (ExitStatus.INVALID, one.err)
    found = json.loads(one.out)["found"]
    assert found == json.loads(two.out)["found"]
    assert (found["shards"], found["pairs"]) == (16, 60)
    assert (json.loads(one.out)["jobs"], json.loads(two.out)["jobs"]) == (1, 2)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (
            ("/nowhere/{0..3}.tar",),
            ExitStatus.INVALID,
            "error: /nowhere/{0..3}.tar: matches no file; /nowhere/0.tar and all others are not there\n"
            "hint: ls /nowhere\n",
        ),
        (("/nowhere/0.tar",), ExitStatus.INVALID, "matches no file; /nowhere/0.tar is not there"),
        (("/a/{0..3.tar",), ExitStatus.INVALID, "error: /a/{0..3.tar: must have braces in pairs"),
        (("pipe:cat x.tar",), ExitStatus.INVALID, "error: pipe:cat x.tar: must be files; pipe: and URLs are not read"),
        (
            ("/x.tar::s3://b/y.tar",),
            ExitStatus.INVALID,
            "/x.tar::s3://b/y.tar: must be files; pipe: and URLs",
        ),
        (("s3://bucket/0.tar",), ExitStatus.INVALID, "must be files"),
        (("demoo",), ExitStatus.NOT_FOUND, "did you mean demo?"),
        (("0.tar", "--set", "train.epochs=1"), ExitStatus.USAGE, "--set changes a preset's or a file's values"),
        (("0.tar", "--sample", "0"), ExitStatus.USAGE, "--sample"),
        (("0.tar", "--jobs", "0"), ExitStatus.USAGE, "--jobs"),
    ],
)
def test_what_cannot_be_checked_is_refused_in_a_line(
    clipctl: Clipctl, arguments: tuple[str, ...], code: ExitStatus, words: str
) -> None:
    said = clipctl("data", "check", *arguments)
    assert (said.code, said.out) == (code, "")
    assert words in said.err
    assert all(line.startswith(("error: ", "hint: ")) for line in said.err.splitlines())


def read_to_the_end(terminal: int) -> Iterator[bytes]:
    """What is drawn until nobody has the terminal open any more, which Linux says with an error."""
    with open(terminal, "rb", buffering=0) as file, contextlib.suppress(OSError):
        while drawn := file.read(4096):
            yield drawn


def test_a_bar_is_shown_on_a_terminal_and_only_there(shards: str) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "clipctl", "data", "check", shards, "--jobs", "1", "--json"]
    checking = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=os.environ | {"TERM": "xterm"})
    os.close(theirs)
    drawn = b"".join(read_to_the_end(ours))
    out, _ = checking.communicate(timeout=PATIENCE)
    assert checking.returncode == ExitStatus.OK
    assert b"4/4" in drawn and b"20 pairs, 0 bad" in drawn
    assert json.loads(out)["found"]["pairs"] == 20


def test_where_no_process_can_be_started_it_says_so_and_one_will_do(shards: str, tmp_path: Path) -> None:
    """A process cannot be started in a folder that is gone; a limit of the site's ends the same way."""
    folder = tmp_path / "gone"
    for jobs, code in ((2, ExitStatus.UNAVAILABLE), (1, ExitStatus.OK)):
        folder.mkdir()
        command = f"rmdir {folder}; {sys.executable} -m clipctl data check '{shards}' --jobs {jobs}"
        done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == code
        assert done.stderr.splitlines() == [
            "error: no process can be started to read: No such file or directory",
            "hint: add --jobs 1",
        ] * (jobs == 2)


# --- the end ----------------------------------------------------------------------------------------


def members(session: int) -> list[int]:
    """The processes of a session, zombies left out."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, belongs = (path / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:  # gone meanwhile
            continue
        if int(belongs) == session and state != "Z":
            found.append(int(path.name))
    return found


def wait_until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_deaf(process: int) -> bool:
    """To a terminal's Ctrl-C, which reaches all processes of the session."""
    status = Path(f"/proc/{process}/status").read_text()
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigBlk:", "SigIgn:"))]
    return any(mask & 1 << (signal.SIGINT - 1) for mask in masks)


@pytest.fixture
def checking(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Two processes, each in the middle of a terabyte of zeros."""
    shard = tmp_path / "zeros.tar"
    shard.touch()
    os.truncate(shard, 1 << 40)
    command = [sys.executable, "-m", "clipctl", "data", "check", f"{tmp_path}/zeros{{,}}.tar", "--jobs", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    try:
        wait_until(lambda: sum(has_open(each, shard) for each in members(process.pid)) == 2)
        yield process
    finally:
        for each in members(process.pid):
            os.kill(each, signal.SIGKILL)
        process.communicate(timeout=PATIENCE)


def has_open(process: int, file: Path) -> bool:
    with contextlib.suppress(OSError):  # it ends
        return any(os.readlink(each) == str(file) for each in Path(f"/proc/{process}/fd").iterdir())
    return False


def test_ctrl_c_ends_it_at_once_and_leaves_nothing(checking: subprocess.Popen[bytes]) -> None:
    assert all(is_deaf(each) for each in members(checking.pid) if each != checking.pid)
    os.killpg(checking.pid, signal.SIGINT)  # as a terminal does
    said = checking.communicate(timeout=PATIENCE)
    assert (checking.returncode, said) == (ExitStatus.INTERRUPTED, (b"", b""))
    wait_until(lambda: members(checking.pid) == [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda each: each.name)
def test_processes_that_read_do_not_outlive_it(checking: subprocess.Popen[bytes], number: signal.Signals) -> None:
    checking.send_signal(number)
    assert checking.wait(timeout=PATIENCE) == -number
    wait_until(lambda: members(checking.pid) == [])


def test_a_process_that_is_killed_is_said_so(checking: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """As the kernel does where memory is short."""
    reads = next(each for each in members(checking.pid) if has_open(each, tmp_path / "zeros.tar"))
    os.kill(reads, signal.SIGKILL)
    out, err = checking.communicate(timeout=PATIENCE)
    assert (checking.returncode, out) == (ExitStatus.UNAVAILABLE, b"")
    assert err.decode().splitlines() == [
        "error: a process that read was killed; is memory short?",
        "hint: add --jobs 1",
    ]
