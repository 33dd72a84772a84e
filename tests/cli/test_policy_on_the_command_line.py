"""policy explain and policy replay, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

from clipctl.errors import ExitStatus
from tests.cli.conftest import Clipctl
from tests.cli.test_runs_on_the_command_line import stopped_run


def test_each_rule_is_told_in_order(clipctl: Clipctl, home: Path):
    stopped_run(home, "tiny")
    said = clipctl("policy", "explain", "tiny")
    assert said.code == ExitStatus.OK
    lines = said.out.splitlines()
    assert lines[0].startswith("tiny: ")
    table = [line.split("  ")[0] for line in lines if not line.startswith(" ")][1:]
    assert table[:3] == ["RULE", "hands off", "going nowhere"] and table[-1] == "go on"
    told = json.loads(clipctl("policy", "explain", "tiny", "--json").out)
    speakers = [rule["rule"] for rule in told["rules"] if rule["said"]]
    assert told["schema"] == 1 and len(speakers) == 1
    assert f"{speakers[0].replace('_', ' ')} " in said.out


def test_a_past_is_told_with_what_people_did(clipctl: Clipctl, home: Path):
    said = clipctl("policy", "replay", "l14")
    assert said.code == ExitStatus.OK
    assert "1. epoch 75: diverged (nan) in epoch 75: a loss spike, then NaN [card, note]" in said.out
    assert "clipctl  resubmit from epoch_68.pt, train.precision=fp32, train.batch_size=224" in said.out
    told = json.loads(clipctl("policy", "replay", "l14", "--json").out)
    assert told["moments"][0]["clipctl"][0]["start"] == "epoch_68.pt"
    assert not home.exists(), "a timeline needs no store"


def test_a_run_of_that_name_comes_before_a_timeline(clipctl: Clipctl, home: Path):
    stopped_run(home, "l14")
    said = clipctl("policy", "replay", "l14")
    assert said.out.startswith("run l14\n") and "attempt 1: crashed: " in said.out


def test_what_is_neither_is_refused_with_what_there_is(clipctl: Clipctl):
    said = clipctl("policy", "replay", "nothing")
    assert said.code == ExitStatus.NOT_FOUND
    assert "error: no run and no timeline nothing; timelines are bloom, h14, l14, opt" in said.err
