"""Forms of text, and how a person is told of them. All are matched in full, and none lets a quote or a space in."""

from __future__ import annotations

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"  # a folder's name, a word of a command line, part of a job's comment
VARIABLE = r"^([A-Z_][A-Za-z0-9_]*|[a-z]+_proxy)$"  # not in lower case, as the job script's own ones are

# Slurm's own forms
_WORD = r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*"
_SPAN = r"[0-9]+(-[0-9]+)?"
_NODE = rf"[A-Za-z0-9][A-Za-z0-9.-]*(\[{_SPAN}(,{_SPAN})*\][A-Za-z0-9.-]*)*"
_CLOCK = r"([0-9]+-)?[0-9]{1,2}:[0-9]{2}:[0-9]{2}"
_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}(:[0-9]{2})?)?"
WALL_TIME = rf"^{_CLOCK}$"
WORD = rf"^{_WORD}$"
WORDS = rf"^{_WORD}(,{_WORD})*$"
NODES = rf"^{_NODE}(,{_NODE})*$"
MEMORY = r"^[0-9]+[KMGT]?$"
FEATURES = r"^[A-Za-z0-9_.:=&|*,()\[\]-]+$"
LICENSES = rf"^{_WORD}(:[0-9]+)?(,{_WORD}(:[0-9]+)?)*$"
MAIL = r"^[A-Za-z0-9._+-]+(@[A-Za-z0-9.-]+)?$"
BEGIN = rf"^(now(\+[0-9]+(seconds|minutes|hours|days|weeks)?)?|{_DAY})$"
SWITCHES = rf"^[0-9]+(@{_CLOCK})?$"
DISTRIBUTION = r"^(\*|block|cyclic|plane=[0-9]+)(:(\*|block|cyclic|fcyclic)){0,2}(,(Pack|NoPack))?$"
SUFFIX = r"^[A-Za-z0-9.-]*$"
CPU_BIND = r"^[A-Za-z0-9_]+([,:][A-Za-z0-9_*]+)*$"
ACCEL_BIND = r"^[gmnv]+$"

RULES = {
    NAME: "must be 1 to 64 of A-Z a-z 0-9 . _ - and begin with a letter or a digit",
    VARIABLE: "must be the name of an environment variable, such as NCCL_DEBUG or https_proxy",
    WALL_TIME: "must be hours:minutes:seconds or days-hours:minutes:seconds, such as 24:00:00",
    WORD: "must be one name, of A-Z a-z 0-9 _ . @ + -",
    WORDS: "must be names with commas between them, such as booster or booster,develbooster",
    NODES: "must be names of nodes as Slurm writes them, such as jwb[0001-0004,0010],jwb0100",
    MEMORY: "must be a whole number with K, M, G or T, such as 480G; without a letter it means M",
    FEATURES: "must be features as Slurm writes them, such as largedata or a100&nvme",
    LICENSES: "must be licences and how many, such as scratch or matlab@server:2,scratch",
    MAIL: "must be one address or user name, such as me@site.org",
    BEGIN: "must be now+2hours or a date and time, such as 2026-11-24T20:00",
    SWITCHES: "must be a number of switches, and how long to wait for them, such as 2@24:00:00",
    DISTRIBUTION: "must be how ranks are dealt out, such as block:cyclic or plane=4",
    SUFFIX: "must be the end of a host's name, such as i or .fast.site.org",
    CPU_BIND: "must be as srun writes it, such as none,v or map_cpu:0,12,24,36",
    ACCEL_BIND: "must be of g (GPUs), m (MICs), n (network cards) and v (say it), such as gn",
}
OWN_VARIABLES = ("CLIPCTL_", "MASTER_ADDR", "MASTER_PORT")
