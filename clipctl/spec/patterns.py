"""Forms of text, and how a person is told of them."""

from __future__ import annotations

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"  # a folder's name, a word of a command line, part of a job's comment
WALL_TIME = r"^(\d+-)?\d{1,2}:\d{2}:\d{2}$"  # Slurm's
VARIABLE = r"^([A-Z_][A-Za-z0-9_]*|[a-z]+_proxy)$"  # not in lower case, as the job script's own ones are

RULES = {
    NAME: "must be 1 to 64 of A-Z a-z 0-9 . _ - and begin with a letter or a digit",
    WALL_TIME: "must be hours:minutes:seconds or days-hours:minutes:seconds, such as 24:00:00",
    VARIABLE: "must be the name of an environment variable, such as NCCL_DEBUG or https_proxy",
}
OWN_VARIABLES = "CLIPCTL_"
