"""Lets cron run the watchdog. Cron gives a bare environment, so what it runs is a script that brings its own."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from clipctl.backends.transport import Here, with_only
from clipctl.errors import InvalidSpec, Refused, Unavailable
from clipctl.ops.clock import Clock
from clipctl.site import crontab
from clipctl.store import home as homes, ticks
from clipctl.store.lease import host
from clipctl.store.ticks import Installed
from trainer.contract import write_atomic

# Without these, cron's Python may find neither its libraries nor the cluster.
KEPT = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "SLURM_CONF", "XDG_CONFIG_HOME", "TZ")
CRONTAB, SCRONTAB = "crontab", "scrontab"
PATIENCE = 60.0  # seconds for Python to start


def install(
    home: Path, *, every: int, program: str, options: Sequence[str] = (), environ: Mapping[str, str], clock: Clock
) -> Installed:
    """`every`: minutes. `options`: sbatch's, for scrontab. Installing again changes the line, or nothing.

    Refused, Unavailable: nothing was installed.
    """
    _check_options(options)
    homes.prepare(home)
    script = script_of(home)
    command = "watchdog run" if program == CRONTAB else "watchdog run --take-over"  # the host is Slurm's to choose
    try:
        script.parent.mkdir(mode=0o700, exist_ok=True)
        _check_start(home, environ)
        write_atomic(script, script_text(home, command, environ))
        block = lines(script, every, program, options)
        crontab.write(program, crontab.with_block(crontab.read(program), home, block))
        told = Installed(host=host(), where=program, at=clock.now(), every=60.0 * every)
        ticks.write_installed(home, told)
    except OSError as error:
        raise Unavailable(f"{error.filename or home}: {error.strerror}", hint=f"ls -ld {home}") from error
    return told


def uninstall(home: Path) -> bool:
    """False: there was nothing to remove. The table of the host that this is called on."""
    told = ticks.installed(home)
    program = told.where if told else CRONTAB
    text = crontab.read(program)
    found = crontab.has_block(text, home)
    if found:
        crontab.write(program, crontab.without_block(text, home))
    elif told is not None and told.host != host():
        raise Refused(f"it is in the {program} of {told.host}", hint=f"ssh {told.host} clipctl watchdog uninstall")
    ticks.write_installed(home, None)
    script_of(home).unlink(missing_ok=True)
    return found


def script_of(home: Path) -> Path:
    return ticks.folder_of(home) / "tick.sh"


def script_text(home: Path, command: str, environ: Mapping[str, str]) -> str:
    """All that is said goes to the log, what Python says when it cannot start, too."""
    log = shlex.quote(str(ticks.log_of(home)))
    return _preamble(home, environ) + f"exec {shlex.quote(sys.executable)} -P -m clipctl {command} >>{log} 2>&1\n"


def _preamble(home: Path, environ: Mapping[str, str]) -> str:
    kept = {name: environ[name] for name in KEPT if environ.get(name)} | {"CLIPCTL_HOME": str(home)}
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in kept.items())
    return f"#!/bin/sh\n# Written by `clipctl watchdog install`, for cron.\numask 077\ncd /\n{exports}"


def lines(script: Path, every: int, program: str, options: Sequence[str]) -> list[str]:
    command = f"/bin/sh {shlex.quote(str(script))}"
    when = "* * * * *" if every == 1 else f"*/{every} * * * *"
    if program == CRONTAB:
        escaped = command.replace("%", r"\%")  # to cron a percent sign is the end of the line
        return [f"{when} {escaped}"]
    own = ["--job-name=clipctl-watchdog", "--time=00:30:00", "--output=/dev/null"]  # the script has a log of its own
    return [*(f"#SCRON {option}" for option in (*own, *options)), f"{when} {command}"]


def _check_options(options: Sequence[str]) -> None:
    wrong = [option for option in options if not re.fullmatch(r"--[a-z][a-z-]*(=[^\s]+)?", option)]
    if wrong:
        raise InvalidSpec(tuple(f"{option!r} is no option of sbatch" for option in wrong), "--scron=--account=NAME")


def _check_start(home: Path, environ: Mapping[str, str]) -> None:
    """What works in this shell may fail under cron, where no module is loaded: found out now, and not at night."""
    if "\n" in str(home):
        raise Refused(f"cron has no way to say {str(home)!r}", hint="export CLIPCTL_HOME=~/.clipctl")
    text = _preamble(home, environ) + f"exec {shlex.quote(sys.executable)} -P -m clipctl --version\n"
    bare = {name: os.environ[name] for name in ("HOME", "LOGNAME") if name in os.environ}
    tried = Here().run([*with_only(bare), "/bin/sh", "-c", text], timeout=PATIENCE)
    if tried.code != 0:
        raise Refused(f"clipctl would not start under cron: {tried.failure}", "install clipctl into a venv of its own")
