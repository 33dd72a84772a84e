"""I8: how often Slurm is asked. Wrappers in front of PATH write each call down, with its exit code, and make it."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("squeue", "sacct", "scontrol", "sbatch", "scancel")


@dataclass(frozen=True)
class Calls:
    """Of one tick: (program and its first word, exit code) in the order of their ends."""

    made: tuple[tuple[str, int], ...]

    def count(self, program: str) -> int:
        return sum(name.split()[0] == program for name, _ in self.made)

    @property
    def unanswered(self) -> bool:
        return any(name.startswith("squeue") and code != 0 for name, code in self.made)

    def excess(self) -> list[str]:
        """Beyond one squeue, one sacct, one scontrol a tick, and what each submission and each scancel asks besides."""
        allowed = Counter(
            squeue=1 + self.count("scancel"), sacct=1, scontrol=1 + self.count("sbatch"), sbatch=10, scancel=10
        )
        return [
            f"I8: {self.count(program)} {program} in one tick, {allowed[program]} allowed"
            for program in PROGRAMS
            if self.count(program) > allowed[program]
        ]


@dataclass(frozen=True)
class Counted:
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "calls"

    @property
    def path(self) -> str:
        """For $PATH."""
        return f"{self.folder / 'bin'}:/usr/local/bin:/usr/bin:/bin"

    def install(self) -> None:
        (self.folder / "bin").mkdir(parents=True)
        self.log.touch()
        for program in PROGRAMS:
            file = self.folder / "bin" / program
            file.write_text(f'#!/bin/bash\n{shutil.which(program)} "$@"\ncode=$?\n'
                            f'echo "$code {program} $1" >>"{self.log}"\nexit $code\n')  # fmt: skip
            file.chmod(0o755)

    def take(self) -> Calls:
        """Those since the last time."""
        lines = self.log.read_text().splitlines()
        self.log.write_text("")
        split = [line.partition(" ") for line in lines]
        return Calls(tuple((name, int(code)) for code, _, name in split))
