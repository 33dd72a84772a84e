"""A login node: clipctl installed from a wheel, without the extras, used from a folder that holds traps."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from clipctl.errors import ExitStatus
from trainer.contract import ExitCode

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"

pytestmark = pytest.mark.xdist_group("login_node")  # one environment for all


def core(name: str, extra: str = "") -> Iterator[str]:
    """Names of all that an install without extras brings, by the metadata of what is installed here."""
    for text in importlib.metadata.requires(name) or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement.name.lower().replace("_", "-")
            for wanted in requirement.extras or {""}:
                yield from core(requirement.name, wanted)


def locked(names: set[str]) -> str:
    """The lines of the lock, hashes included, for these packages."""
    entries = re.split(r"^(?=[a-z])", LOCK.read_text(), flags=re.MULTILINE)
    return "".join(entry for entry in entries if re.split("[=\\[]", entry)[0] in names)


def uv() -> str | None:
    """Where `make` found or put it."""
    return shutil.which("uv") or shutil.which("uv", path=str(ROOT / ".uv" / "bin"))


def install(folder: Path, *what: str) -> Path:
    """A new environment with nothing but this; its bin folder."""
    python = str(folder / "bin" / "python")
    if program := uv():
        subprocess.run([program, "venv", "--quiet", "--python", sys.executable, folder], check=True)
        command = [program, "pip", "install", "--quiet", "--python", python]
        offline = [*command, "--offline"]  # what `make` installed is still in uv's cache, as a rule
    else:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        command = offline = [python, "-m", "pip", "install", "--quiet"]
    for arguments in what:
        if subprocess.run([*offline, "--no-deps", *arguments.split()]).returncode:
            subprocess.run([*command, "--no-deps", *arguments.split()], check=True)
    return folder / "bin"


@pytest.fixture(scope="module")
def login_node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that has the wheel and the locked core packages."""
    folder = tmp_path_factory.mktemp("login")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    (folder / "core.lock").write_text(locked(set(core("clipctl"))))
    (wheel,) = folder.glob("clipctl-*.whl")
    return install(folder / "venv", f"--require-hashes -r {folder / 'core.lock'}", str(wheel))


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a folder `trainer` of somebody else's."""
    folder = tmp_path / "work"
    (folder / "trainer").mkdir(parents=True)
    for module in ("__init__", "__main__", "claim", "contract", "schedule"):
        (folder / "trainer" / f"{module}.py").write_text("print('the trap'); raise SystemExit(99)")
    (folder / "run.yaml").write_text("extends: demo\n")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return folder


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), text=True, capture_output=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--help", "Usage: clipctl"),
        ("presets", "l14-laion2b"),
        ("presets show l14-laion2b", "ViT-L-14"),
        ("render demo", "CLIPCTL_NONCE="),
        ("validate run.yaml", "valid spec"),
        ("status", "clipctl launch"),
        ("status --json", '"schema"'),
    ],
)
def test_the_command_line_works_without_torch(login_node: Path, trap: Path, arguments: str, said: str) -> None:
    result = run(login_node / "clipctl", *arguments.split())
    assert result.returncode == 0, result.stderr
    assert said in result.stdout and result.stderr == ""


def test_there_really_is_no_torch(login_node: Path) -> None:
    assert run(login_node / "python", "-c", "import torch").returncode == 1
    assert run(login_node / "python", "-c", "import pytest").returncode == 1


def test_the_demo_says_what_it_needs(login_node: Path, trap: Path, home: Path) -> None:
    refused = run(login_node / "clipctl", "launch", "demo", "-y")
    assert refused.returncode == ExitStatus.INVALID
    assert "pip install 'clipctl[demo]'" in refused.stderr and "Traceback" not in refused.stderr
    assert not (home / "runs").exists()


def test_a_foreign_trainer_is_not_run(login_node: Path, trap: Path) -> None:
    refused = run(login_node / "python", "-P", "-m", "trainer.claim")
    assert refused.returncode == 2 and "the trap" not in refused.stdout
    # the trap is real: without -P Python takes the working directory's
    assert run(login_node / "python", "-m", "trainer.claim").returncode == 99


def test_a_trainer_that_came_by_pythonpath_is_refused(login_node: Path, tmp_path: Path) -> None:
    """-P does not keep PYTHONPATH out; the module itself looks where it came from."""
    copy = shutil.copytree(ROOT / "trainer", tmp_path / "elsewhere" / "trainer")
    command = [login_node / "python", "-P", "-m", "trainer.claim", tmp_path]
    result = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(copy.parent)}, text=True, capture_output=True)
    assert result.returncode == ExitCode.REFUSED
    assert "trainer" in result.stderr and "Traceback" not in result.stderr
