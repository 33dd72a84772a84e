"""Runs on a real Slurm, from launch to the end, by the command line alone: what goes wrong, and what clipctl says."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cluster.processes import of_cluster, of_node, send
from tests.rehearse import script_differences
from tests.slurm.desk import SMALL, Said, SlurmDesk, eventually, impostor, real

LONG = "train.epochs=200"


def test_a_run_trains_to_its_end_and_its_script_is_one_text_everywhere(desk: SlurmDesk) -> None:
    desk.launched("r", "resources.nodes=2")
    rendered = desk.clipctl("render", "demo", "--name", "r", *rendering(("resources.nodes=2",))).out
    assert script_differences(rendered, desk.folder("r"), desk.cluster) == []
    assert desk.ended("r")["state"] == "completed"


def test_status_says_where_a_job_stands_in_the_queue(desk: SlurmDesk) -> None:
    """Six nodes: the second run waits for the first, and says so."""
    desk.launched("first", LONG, "resources.nodes=6")
    desk.trains("first")
    desk.launched("second", "resources.nodes=6")
    assert "second: queued" in desk.clipctl("status", "second").out
    eventually(lambda: "waits: " in desk.clipctl("status", "second").out)  # once Slurm has given it a thought
    running = desk.clipctl("status", "first").out
    assert "nodes       jwb[0001-0006]" in running and " left" in running


def test_a_submission_whose_answer_was_lost_is_found_again(desk: SlurmDesk, tmp_path: Path) -> None:
    """F1: sbatch times out, and the controller had it after all."""
    (controller,) = [item for item in of_cluster(desk.cluster.folder) if item.program == "slurmctld"]
    path = impostor(tmp_path, f'kill -STOP {controller.pid}; exec {real("sbatch")} "$@"')
    said = desk.launch("r", PATH=path)
    desk.cluster.thaw()
    assert said.code == 0
    assert "whether the job was accepted is not known" in said.err
    assert desk.ended("r")["state"] == "completed"
    assert desk.status("r")["attempts"] == 1


def test_a_controller_that_is_down_changes_nothing(desk: SlurmDesk) -> None:
    """F5, F6: nothing is concluded from silence, and a run outlives its controller."""
    desk.launched("r", LONG)
    desk.trains("r")
    desk.cluster.stop_controller()
    said = desk.clipctl("status", "r")
    assert said.code == 0 and "the scheduler could not be asked" in said.err
    assert desk.status("r")["state"] == "running"
    refused = desk.clipctl("resume", "r", "-y")
    assert refused.code == 5 and "may be alive" in refused.err
    desk.cluster.start_controller()
    eventually(lambda: desk.status("r")["job"]["state"] == "RUNNING")


def test_an_accepted_job_that_the_controller_lost_is_lost(desk: SlurmDesk) -> None:
    """F3, F4: and the id it had may be given to another."""
    desk.launched("blocker", LONG, "resources.nodes=6")
    desk.trains("blocker")
    lost = desk.launched("r", "resources.nodes=6")
    desk.cluster.restart_controller(lose_state=True)
    foreign = desk.cluster.run(
        "sbatch", "--parsable", "--output=/dev/null", "--wrap=sleep 60", f"--job-name=other-{lost}"
    ).stdout
    assert foreign
    eventually(lambda: desk.looked("r")["last_incident"] is not None)
    assert desk.status("r")["last_incident"]["kind"] == "lost"


def test_preemption_with_time_to_save_goes_on_at_the_very_step(desk: SlurmDesk) -> None:
    """F12, F13: Slurm calls it FAILED; what was saved, and PreemptTime, say what it was."""
    desk.launched("r", LONG, "slurm.partition=booster-grace", "resources.nodes=6")
    desk.trains("r", 5)
    urgent = desk.cluster.run(
        "sbatch", "--parsable", "--output=/dev/null", "--partition=urgent", "--nodes=6", "--wrap=sleep 1"
    ).stdout.strip()
    run = desk.ended("r")
    assert (run["state"], run["last_incident"]["kind"]) == ("stopped", "preempted")
    (stopped,) = desk.events("r", 1, "stopped")
    eventually(lambda: urgent not in desk.cluster.run("squeue", "--noheader", "--format=%i").stdout.split())
    desk.resumed("r", "--set", f"train.epochs={stopped['epoch'] + 1}")
    (again,) = [desk.ended("r")] and desk.events("r", 2, "started")
    assert (again["step"], again["samples_seen"]) == (stopped["step"], stopped["samples_seen"])


def test_preemption_without_a_grace_is_a_preemption(desk: SlurmDesk) -> None:
    """F14."""
    desk.launched("r", LONG, "slurm.partition=booster-cancel", "resources.nodes=6")
    desk.trains("r", 5)
    desk.cluster.run("sbatch", "--output=/dev/null", "--partition=urgent", "--nodes=6", "--wrap=sleep 1")
    run = desk.ended("r")
    assert (run["state"], run["last_incident"]["kind"]) == ("stopped", "preempted")


def test_the_end_of_wall_time_is_seen_coming(desk: SlurmDesk) -> None:
    """F16: the save signal comes before the limit; the run goes on in the middle of the epoch."""
    desk.launched("r", LONG, "slurm.time=00:02:00", "slurm.save_before_end=60")
    run = desk.ended("r")
    assert (run["state"], run["last_incident"]["kind"]) == ("stopped", "timed_out")
    (stopped,) = desk.events("r", 1, "stopped")
    desk.resumed("r", "--set", f"train.epochs={stopped['epoch'] + 1}")
    assert desk.ended("r")["state"] == "completed"
    assert desk.events("r", 2, "started")[0]["step"] == stopped["step"]


def test_a_job_that_somebody_scancelled_waits_for_a_word(accounted_desk: SlurmDesk) -> None:
    """F17, with accounting, which says by whom."""
    desk = accounted_desk
    job = desk.launched("r", LONG)
    desk.trains("r")
    desk.cluster.run("scancel", job)
    run = desk.ended("r")
    assert (run["last_incident"]["kind"], run["next"]) == ("cancelled_by_user", "clipctl resume r --force cancelled")
    refused = desk.clipctl("resume", "r", "-y")
    assert refused.code == 5 and "(cancelled)" in refused.err
    assert desk.events("r", 1, "stopped"), "the ranks had the time to save"


def test_a_start_that_the_site_forced_goes_on_from_the_newest_checkpoint(desk: SlurmDesk) -> None:
    """F10, F15: the same id runs again, as the same attempt."""
    job = desk.launched("r", "train.epochs=12", "train.save.steps=5")
    desk.wait("r", lambda run: run["progress"]["step"] and run["progress"]["step"] > 25)
    desk.cluster.run("scontrol", "update", f"jobid={job}", "requeue=1")
    desk.cluster.run("scontrol", "requeue", job)
    eventually(lambda: len(desk.events("r", 1, "started")) == 2)
    again = desk.events("r", 1, "started")[1]
    assert again["step"] >= 20
    run = desk.ended("r")
    assert (run["state"], run["attempts"], run["job"]["scheduler_id"]) == ("completed", 1, job)


def test_a_job_that_does_not_die_keeps_its_run(desk: SlurmDesk) -> None:
    """F29: ranks that hear no signal, on a node whose slurmd is gone: COMPLETING is alive."""
    desk.launched("r", LONG, "train.faults=[{kind: hang, at_epoch: 1, at_step: 8}]")
    desk.wait("r", lambda run: run["progress"]["step"] and run["progress"]["step"] >= 5)
    node = desk.status("r")["job"]["nodes"]
    freeze(desk, node)
    said = desk.clipctl("cancel", "r")
    assert said.code == 0, said.err
    desk.wait("r", lambda run: run["job"]["state"] == "COMPLETING")
    refused = desk.clipctl("resume", "r", "-y", "--force", "cancelled")
    assert refused.code == 5 and "may be alive" in refused.err
    thaw(desk, node)
    assert desk.ended("r")["state"] == "cancelled"


def at_once(people: int, command: Callable[[], Said]) -> tuple[list[Said], list[Said]]:
    """What those were told whose command did it, and those who were refused."""
    with ThreadPoolExecutor(people) as everybody:
        said = list(everybody.map(lambda _: command(), range(people)))
    return [item for item in said if item.code == 0], [item for item in said if item.code != 0]


def test_of_twenty_launches_at_once_one_runs(desk: SlurmDesk) -> None:
    done, refused = at_once(20, lambda: desk.launch("r", LONG))
    assert (len(done), len(refused)) == (1, 19)
    assert {item.code for item in refused} == {5}
    assert all("exists" in item.err or "in use" in item.err for item in refused)
    assert all("hint: " in item.err for item in refused)
    desk.trains("r")
    assert len(desk.jobs_of("r")) == 1


def test_of_twenty_resumes_at_once_one_runs(desk: SlurmDesk) -> None:
    desk.launched("r", LONG, "train.faults=[{kind: crash, at_epoch: 2, at_step: 3}]")
    assert desk.ended("r")["last_incident"]["kind"] == "crashed"
    done, refused = at_once(20, lambda: desk.clipctl("resume", "r", "-y"))
    assert (len(done), len(refused)) == (1, 19)
    assert {item.code for item in refused} == {5}
    assert all("may be alive" in item.err and "hint: " in item.err for item in refused)
    assert len(desk.jobs_of("r")) == 1
    assert desk.status("r")["attempts"] == 2


def test_the_logs_of_every_rank_can_be_read(desk: SlurmDesk) -> None:
    desk.launched("r", "resources.nodes=2")
    desk.ended("r")
    for rank in range(4):
        assert f'"rank": {rank}' in desk.clipctl("logs", "r", "--rank", str(rank)).out


def test_ctrl_c_of_follow_leaves_the_job(desk: SlurmDesk) -> None:
    process = desk.start(*desk.launching("r", LONG), "--follow")
    eventually(lambda: (desk.folder("r") / "attempts" / "1" / "events.jsonl").exists())
    desk.trains("r")  # by then it is followed
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "goes on" in err
    assert desk.trains("r")


def test_first_contact_names_all_that_is_missing_at_once(desk: SlurmDesk, tmp_path: Path) -> None:
    wrong = (
        "train.engine=torch", "resources.nodes=7", "slurm.time=99-00:00:00", "train.data.train_num_samples=9999",
        f"train.data.train_data={tmp_path}/{{0..9}}.tar",
    )  # fmt: skip
    said = desk.launch("r", *wrong)
    assert said.code == 3
    for words in ("matches no file", "resources.nodes=7: partition booster gives at most 6", "slurm.time=99-00:00:00"):
        assert words in said.err
    assert "hint: clipctl doctor demo --cluster emulated" in said.err
    assert not desk.home.exists()
    assert not list(desk.root.iterdir())
    assert desk.clipctl("render", *desk.launching("r", *wrong)[1:2], *rendering(wrong)).out.startswith("#!/bin/bash\n")


def rendering(sets: tuple[str, ...]) -> list[str]:
    return ["--cluster", "emulated", *(item for text in (*SMALL, *sets) for item in ("--set", text))]


def freeze(desk: SlurmDesk, node: str) -> None:
    """Its slurmd hears nothing, so that nothing there can be ended."""
    send(signal.SIGSTOP, [item for item in of_node(desk.cluster.folder, node) if item.program == "slurmd"])


def thaw(desk: SlurmDesk, node: str) -> None:
    send(signal.SIGCONT, [item for item in of_node(desk.cluster.folder, node) if item.program == "slurmd"])


def test_what_the_cluster_makes_of_a_job_is_said(desk: SlurmDesk) -> None:
    """A job_submit plugin, or an administrator, changes jobs silently: here right behind sbatch."""
    path = impostor(
        desk.home.parent,
        f'job=$({real("sbatch")} "$@"); {real("scontrol")} update jobid=$job timelimit=30; echo $job',
    )
    said = desk.launch("r", LONG, "slurm.time=02:00:00", PATH=path)
    assert said.code == 0
    assert "the cluster changed it: --time=02:00:00, but the job has TimeLimit=00:30:00" in said.err
