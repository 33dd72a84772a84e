"""A site is looked at before anything is asked of it."""

from __future__ import annotations

import json

from tests.slurm.desk import SMALL, SlurmDesk


def test_a_site_that_is_ready_says_so_and_runs_python_on_a_node(desk: SlurmDesk) -> None:
    sets = [item for text in SMALL for item in ("--set", text)]
    said = desk.clipctl("doctor", "demo", "--cluster", "emulated", *sets, "--job", "--json")
    assert said.code == 0, said.out + said.err
    found = {item["subject"]: (item["level"], item["text"]) for item in json.loads(said.out)["findings"]}
    assert found["slurm"][0] == "ok" and found["slurm"][1].endswith(", cluster emulated")
    assert found["partition"][1].startswith("booster: 6 nodes, wall time 1-00:00:00")
    assert found["accounting"][0] == "warning"
    assert found["launch"] == ("ok", "demo: nothing is missing")
    assert found["compute node"][1].startswith("python 3.")


def test_a_profile_is_found_by_the_name_of_the_slurm_that_is_here(desk: SlurmDesk) -> None:
    """And what cannot be launched there is said with a code of its own."""
    said = desk.clipctl("doctor")
    assert (said.code, said.out.splitlines()[0]) == (0, "cluster emulated")
    refused = desk.clipctl(
        "doctor", "demo", "--cluster", "emulated", "--set", "slurm.partition=fast", "--set", "root=/proc/x"
    )
    assert refused.code == 5
    assert "slurm.partition=fast: is not here" in refused.out
    assert "/proc/x cannot be written to" in refused.out


def test_a_controller_that_does_not_answer_is_a_finding(desk: SlurmDesk) -> None:
    desk.cluster.stop_controller()
    said = desk.clipctl("doctor", "--cluster", "emulated")
    assert said.code == 5
    assert "Slurm does not answer" in said.out
