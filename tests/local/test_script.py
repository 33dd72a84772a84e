"""The job's script, run by bash as a scheduler would run it: how it ends, and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import jinja2
import pytest

from clipctl.domain import Limits
from clipctl.render import as_code, quoted
from tests.local.desk import TRAINING, Desk, eventually
from trainer import contract
from trainer.contract import Claim, Exit, ExitCode


def run(desk: Desk, script: Path) -> subprocess.Popen[bytes]:
    return desk.start("bash", script, job=script.parent.name.partition("-")[0])


def final(kind: str) -> str:
    """A rank that writes a final event."""
    event = json.dumps({"kind": kind, "seq": 1})
    return f"import sys; from pathlib import Path; Path(sys.argv[1], 'events.jsonl').write_text({event + chr(10)!r})\n"


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("", 0),
        ("import sys; sys.exit(86)", 86),
        ("import os; os.kill(os.getpid(), 9)", 137),
        ("import sys; sys.exit(144)", ExitCode.CRASHED),
        (final("completed"), 0),
        (final("completed") + "import os; os.kill(os.getpid(), 9)", 0),  # died while it tore down
        (final("stopped") + "sys.exit(85)", ExitCode.STOPPED),
        (final("diverged"), ExitCode.DIVERGED),
        (final("crashed"), ExitCode.CRASHED),
        (final("crashed") + "sys.exit(88)", ExitCode.REFUSED),
        (final("crashed") + "import os; os.kill(os.getpid(), 9)", 137),  # out of memory looks like this
    ],
)
def test_how_it_ended_is_in_exit_json(source: str, code: int, desk: Desk) -> None:
    desk.rank(source)
    before = int(time.time())

    assert run(desk, desk.script("n1", ranks=1)).wait(60) == code
    left = json.loads(desk.job("n1").exit.read_text())
    assert left.keys() == {"code", "time", "scheduler", "schema"}
    assert contract.loads(Exit, json.dumps(left)) == Exit(code=code, time=left["time"])
    assert before <= left["time"] <= before + 120


def test_the_claim_comes_before_any_rank(desk: Desk) -> None:
    desk.rank("print('must not run')")
    first, second = desk.script("n1", ranks=1), desk.script("n2", ranks=1)
    desk.rank("import sys; print(open(sys.argv[1] + '/claim').read())")
    process = run(desk, first)
    assert process.wait(60) == 0
    held = contract.loads(Claim, desk.log("n1", "rank_0"))
    assert (held.nonce, held.job_id) == (desk.nonce("n1"), str(process.pid))

    assert run(desk, second).wait(60) == ExitCode.FENCED
    assert desk.exit("n2").code == ExitCode.FENCED
    assert desk.log("n2").startswith("fenced: attempt 1 is held by job n1")
    assert not (desk.job("n2").logs / "rank_0.log").exists()


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "15"), (signal.SIGUSR1, "10")])
def test_a_request_to_stop_is_passed_on_and_its_answer_awaited(number: signal.Signals, name: str, desk: Desk) -> None:
    desk.rank(TRAINING)
    process = run(desk, desk.script("n1"))
    desk.ready()
    process.send_signal(number)

    assert process.wait(60) == ExitCode.STOPPED
    assert f"told {name}" in desk.log("n1", "rank_0")
    assert desk.exit("n1").code == ExitCode.STOPPED


def test_being_asked_again_and_again_loses_neither_the_save_nor_the_code(desk: Desk) -> None:
    desk.rank(TRAINING)
    process = run(desk, desk.script("n1"))
    desk.ready()
    for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGTERM):
        process.send_signal(number)
        time.sleep(0.02)

    assert process.wait(60) == ExitCode.STOPPED
    assert "saved" in desk.log("n1", "rank_0")


def test_a_job_that_is_asked_to_stop_while_it_waits_starts_no_rank(desk: Desk) -> None:
    desk.rank(TRAINING)
    first = run(desk, desk.script("n1"))
    desk.ready()
    waiting = run(desk, desk.script("n2", attempt=2))
    eventually((desk.job("n2").logs / "script.log").exists)
    eventually(lambda: len(desk.of("n2")) > 1)  # the claim
    waiting.terminate()

    assert waiting.wait(60) == 128 + signal.SIGTERM
    assert desk.exit("n2").code == 128 + signal.SIGTERM
    first.terminate()
    assert first.wait(60) == ExitCode.STOPPED


def test_a_job_that_is_asked_to_stop_while_it_sets_up_starts_no_rank(desk: Desk) -> None:
    desk.rank("print('must not run')")
    mark = desk.root / "setting up"
    process = run(desk, desk.script("n1", setup=(f'touch "{mark.name}"', "sleep 1")))
    eventually(mark.exists)
    process.terminate()

    assert process.wait(60) == 128 + signal.SIGTERM
    assert not (desk.job("n1").logs / "rank_0.log").exists()


def test_a_set_up_that_fails_leaves_its_code_too(desk: Desk) -> None:
    assert run(desk, desk.script("n1", setup=("module load clip || exit 3",))).wait(60) == 3
    assert desk.exit("n1").code == 3
    assert "module: command not found" in desk.log("n1")


def test_set_up_scripts_may_be_as_careless_as_they_are(desk: Desk) -> None:
    """Unset variables, failing commands, `set -e`: conda and module files do all that."""
    desk.rank(final("completed") + "import os; print(os.environ['CHOSEN'], os.environ['PLACE']); sys.exit(1)")
    setup = ('export PLACE="/opt$NOT_SET_ANYWHERE"', "false", "set -e")

    assert run(desk, desk.script("n1", ranks=1, setup=setup, env={"CHOSEN": "it's; $HOME"})).wait(60) == 0
    assert desk.log("n1", "rank_0") == "it's; $HOME /opt\n"


def test_a_rank_works_in_the_runs_folder_and_hears_no_terminal(desk: Desk) -> None:
    desk.rank("import os, sys; print(os.getcwd()); print(repr(sys.stdin.read()))")

    assert run(desk, desk.script("n1", ranks=1)).wait(60) == 0
    assert desk.log("n1", "rank_0").splitlines() == [str(desk.folder.path), "''"]


def test_patience_comes_from_the_clusters_profile(desk: Desk) -> None:
    desk.rank(TRAINING)
    first = run(desk, desk.script("n1"))
    desk.ready()
    second = run(desk, desk.script("n2", attempt=2, limits=Limits(claim_wait=0.3, rank_grace=7.5)))

    assert second.wait(60) == ExitCode.FENCED
    assert "--grace 7.5" in desk.job("n2").submission.read_text()
    first.terminate()
    assert first.wait(60) == ExitCode.STOPPED


def test_kill_9_of_the_script_leaves_no_half_exit_json(desk: Desk) -> None:
    desk.rank("import os; os.kill(os.getppid(), 9)")  # spawn first, so that nothing is left
    process = run(desk, desk.script("n1", ranks=1))
    assert process.wait(60) == 137
    assert desk.exit("n1").code == 137
    assert [path.name for path in desk.job("n1").path.iterdir() if path.name.startswith("exit")] == ["exit.json"]


REPORTING = """{% extends "base.sh.j2" %}
{% block report %}
    report=$(cat "$WORDS")
{% endblock %}
{% block ranks %}
{% endblock %}
"""
NASTY = 'JobId=7 Comment="a\\b" Name=two\nlines\tand a tab'


def test_a_schedulers_own_words_are_kept_whatever_they_hold(desk: Desk, tmp_path: Path) -> None:
    """A scheduler's template fills `report`; its text must not be able to break the JSON around it."""
    (tmp_path / "words").write_text(NASTY)
    text = child_script(REPORTING, desk)
    script = desk.script("n1")
    script.write_text(text)

    assert desk.start("bash", script, WORDS=str(tmp_path / "words")).wait(60) == 3
    assert desk.exit("n1").scheduler == NASTY.replace("\n", " ").replace("\t", " ")


def child_script(child: str, desk: Desk) -> str:

    loader = jinja2.ChoiceLoader([jinja2.DictLoader({"child": child}), jinja2.PackageLoader("clipctl")])
    environment = jinja2.Environment(loader=loader, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"quoted": quoted, "as_code": as_code}
    template = environment.get_template("child")
    values = {"exit_file": desk.folder.job(desk.nonce("n1")).exit, "setup": ("exit 3",), "env": {}}
    names = ("nonce", "python", "attempt_folder", "run_folder", "claim_wait")
    return template.render(dict.fromkeys(names, "x") | values)


def test_its_signals_reach_the_ranks_when_the_whole_group_gets_them(desk: Desk) -> None:
    """As slurmstepd and a shell's `kill -TERM -pgid` do: script and spawn hear it at the same moment."""
    desk.rank(TRAINING)
    process = run(desk, desk.script("n1"))
    desk.ready()
    for member in desk.of("n1"):
        os.kill(member.pid, signal.SIGTERM)

    assert process.wait(60) == ExitCode.STOPPED
    assert desk.exit("n1").code == ExitCode.STOPPED
