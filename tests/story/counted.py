"""I8: how often Slurm is asked. Wrappers in front of PATH write each call down, with its exit code, and make it."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("squeue", "sacct", "scontrol", "sbatch", "scancel")


@dataclass(frozen=True)
class Calls:
    """Of one tick: the programs that were started, and those that left with 0; who was too slow was killed."""

    made: tuple[str, ...] = ()
    answered: tuple[str, ...] = ()

    def count(self, program: str) -> int:
        return self.made.count(program)

    @property
    def unanswered(self) -> bool:
        return self.answered.count("squeue") < self.count("squeue")

    def excess(self, stops: int) -> list[str]:
        """Beyond one squeue, one sacct, one scontrol a tick, and what each submission and each stop asks besides."""
        ends = max(stops, self.count("scancel"))  # none where the job has ended meanwhile
        allowed = Counter(squeue=1 + ends, sacct=1, scontrol=1 + self.count("sbatch"), sbatch=10, scancel=10)
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
            file.write_text(
                f'#!/bin/bash\necho "made {program}" >>"{self.log}"\n{shutil.which(program)} "$@"\ncode=$?\n'
                f'[ $code != 0 ] || echo "answered {program}" >>"{self.log}"\nexit $code\n'
            )
            file.chmod(0o755)

    def take(self) -> Calls:
        """Those since the last time."""
        lines = self.log.read_text().splitlines()
        self.log.write_text("")
        words = [line.split() for line in lines]
        return Calls(*(tuple(name for word, name in words if word == kind) for kind in ("made", "answered")))
