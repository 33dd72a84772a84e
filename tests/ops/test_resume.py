"""From how a run ended to what would be done about it, and what stands against that."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from clipctl.domain import Accepted, CheckpointState, JobState, RunState
from clipctl.errors import InvalidSpec, NotFound, Refused
from clipctl.spec import resolve
from tests.ops.theatre import Stage, demo
from trainer.contract import Attempt, EventKind, ExitCode, Precision, loads

Stages = Callable[..., Stage]
NAN = {"loss": "nan", "grad_norm": "nan", "scale": 1.0, "ranks": [0, 1], "cause": "loss"}


def diverge(run: Stage, epoch: int, into: int) -> None:
    run.event(EventKind.DIVERGED, epoch=epoch, into=into, **NAN)
    run.end(ExitCode.DIVERGED)


def newest_attempt(run: Stage) -> Attempt:
    number = run.store.run(run.run).attempts
    return loads(Attempt, run.folder.attempt(number).attempt.read_bytes())


def test_the_numbers_of_the_run_this_program_was_written_for(stage: Stages, tmp_path: Path):
    """L/14 on 384 GPUs: not finite in epoch 75, back to epoch 68, float32 with its batch of 224."""
    sets = ["resources.nodes=1", "resources.ranks_per_node=384", f"root={tmp_path}", "train.zeroshot=null"]
    run = stage(resolve("l14-laion2b", sets=[*sets, "train.precision=amp_fp16"], cluster="local"))
    run.launch()
    for epochs in range(66, 75):
        run.save(epochs)
    diverge(run, 75, 1200)
    plan = run.plan()
    assert plan.start.parent is not None
    assert plan.start.parent.path == "attempts/1/checkpoints/epoch_68.pt"
    assert plan.changes["train.precision"] == ("amp_fp16", "fp32")
    assert plan.changes["train.batch_size"] == (208, 224)
    assert (plan.before.steps_per_epoch, plan.after.steps_per_epoch) == (2508, 2328)
    assert plan.samples_seen == 68 * 200_318_976
    assert f"{plan.first_rate:.3e}" == "6.408e-04"


def test_a_resume_starts_the_next_attempt_with_its_whole_story(stage: Stages):
    run = stage()
    run.launch()
    run.save(1)
    run.event(EventKind.STOPPED, epoch=2, into=4, signal="SIGTERM", checkpoint="steps/step_14.pt")
    newest = run.save(1, into=4)
    run.end(ExitCode.STOPPED)
    run.resume()
    attempt = newest_attempt(run)
    assert (attempt.number, attempt.ranks) == (2, 2)
    assert attempt.parent is not None
    assert run.folder.resolve(attempt.parent.path) == newest
    assert attempt.parent.samples_seen == 14 * 96
    assert len(run.scheduler.submitted) == 2
    story = [json.loads(line) for line in run.folder.decisions.read_text().splitlines()]
    assert [entry["basis"] for entry in story if entry["kind"] == "intent"] == [
        "launched",
        "stopped; the newest good checkpoint, same settings",
    ]


def test_an_explicit_batch_size_wins_over_the_precisions_profile(stage: Stages):
    run = stage()
    run.launch()
    diverge(run, 1, 3)
    assert run.plan(patch={"train.precision": "amp_fp16"}).start.spec.train.batch_size == 32
    wish = {"train.precision": "amp_fp16", "train.batch_size": 24}
    assert run.plan(patch=wish).start.spec.train.batch_size == 24


def test_settings_stay_what_the_newest_attempt_had(stage: Stages):
    """A batch size that was asked for once is not replaced by a profile's at the next resume."""
    run = stage()
    run.launch()
    run.end(1)
    run.resume(patch={"train.precision": "amp_bf16", "train.batch_size": 48})
    run.end(1)
    run.resume(patch={"train.seed": 7})
    train = newest_attempt(run).train
    assert (train.precision, train.batch_size, train.seed) == (Precision.AMP_BF16, 48, 7)


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(stage: Stages):
    run = stage()
    run.launch()
    run.save(1)
    newest = run.save(2)
    run.end(1)
    content = bytearray(newest.read_bytes())
    content[5] ^= 1
    newest.write_bytes(content)
    plan = run.plan()
    assert plan.start.parent is not None
    assert plan.start.parent.path.endswith("epoch_1.pt")
    states = {item.manifest.file: item.state for item in run.store.history(run.run).checkpoints}
    assert states == {"epoch_1.pt": CheckpointState.VERIFIED, "epoch_2.pt": CheckpointState.DAMAGED}
    with pytest.raises(Refused, match=r"epoch_2.pt is not what was written \(damaged\)"):
        run.resume(epoch=3, force=("damaged",))


def test_what_is_asked_for_by_epoch_step_or_path(stage: Stages):
    run = stage()
    run.launch()
    run.save(1)
    step = run.save(1, into=3)
    run.save(2)
    run.end(1)
    asked = [run.plan(epoch=1), run.plan(epoch=2), run.plan(step=13), run.plan(checkpoint=step)]
    paths = [plan.start.parent.path if plan.start.parent else None for plan in asked]
    assert paths == [None, "attempts/1/checkpoints/epoch_1.pt", *["attempts/1/steps/step_13.pt"] * 2]
    with pytest.raises(NotFound) as missing:
        run.plan(epoch=9)
    assert "no checkpoint epoch_8.pt" in missing.value.message
    assert "--epoch can be 1, 2, 3" in missing.value.hint
    with pytest.raises(NotFound, match="no such file"):
        run.plan(checkpoint=Path("/nowhere/epoch_1.pt"))


def test_what_makes_it_another_run_is_refused(stage: Stages):
    run = stage()
    run.launch()
    run.end(1)
    patch = {"name": "other", "root": "/elsewhere", "cluster": "juwels-booster", "train.model": "ViT-B-32"}
    with pytest.raises(InvalidSpec) as refused:
        run.plan(patch=patch)
    lines = refused.value.problems
    assert [line.partition("=")[0] for line in lines] == ["name", "cluster", "root", "train.model"]
    assert lines[-1] == "train.model=ViT-B-32: a run keeps its train.model, which is ViT-digits-32"


def test_inside_an_epoch_another_batch_means_a_fresh_stream(stage: Stages):
    run = stage()
    run.launch()
    run.save(1, into=5)
    run.end(1)
    assert not run.plan().fresh_stream
    plan = run.plan(patch={"train.batch_size": 96})
    assert plan.fresh_stream
    assert plan.start_position == (1, 2)  # 5 steps of 96 samples are 2 whole ones of 192
    assert run.plan(patch={"train.accum_freq": 2}).start_position == (1, 2)
    assert not run.plan(patch={"train.batch_size": 24, "train.accum_freq": 2}).fresh_stream


def test_a_checkpoint_of_another_run_keeps_its_digest_and_place(stage: Stages, tmp_path: Path):
    other = stage(resolve("demo", sets=["resources.ranks_per_node=2"], name="other"))
    other.launch()
    path = other.save(3)
    run = stage()
    run.launch()
    run.end(1)
    plan = run.plan(checkpoint=path, patch={"train.epochs": 9})
    assert plan.start.parent is not None
    assert (plan.start.parent.path, plan.start.parent.epochs_done) == (str(path), 3)
    assert plan.start.parent.digest is not None


def test_a_file_that_is_no_checkpoint_is_refused(stage: Stages, tmp_path: Path):
    run = stage()
    run.launch()
    run.end(1)
    foreign = tmp_path / "epoch_7.pt"
    foreign.write_bytes(b"not a zip")
    with pytest.raises(Refused, match="not a whole torch checkpoint"):
        run.plan(checkpoint=foreign)


def test_a_live_job_is_never_overruled(stage: Stages):
    run = stage()
    run.launch()
    run.save(1)
    run.look()
    with pytest.raises(Refused, match="a job of attempt 1 may be alive") as refused:
        run.resume(epoch=2, force=("live-job",))
    assert refused.value.hint == "clipctl cancel tiny"
    with pytest.raises(Refused, match="a job of attempt 1 may be alive"):
        run.resume()
    assert len(run.scheduler.submitted) == 1


def test_a_job_that_is_ending_is_waited_for_and_not_cancelled(stage: Stages):
    """Between the trainer's last word and the end of its processes; and before anybody has seen a job at all."""
    run = stage()
    run.launch()
    run.event(EventKind.DIVERGED, epoch=2, into=3, **NAN)
    run.look()
    assert run.state is RunState.STOPPED
    for wish in ({}, {"epoch": 1}):
        with pytest.raises(Refused, match="a job of attempt 1 may be alive") as refused:
            run.resume(**wish)
        assert refused.value.hint == "clipctl status tiny, until it is known to be over"


def test_what_failed_is_refused_until_somebody_insists(stage: Stages):
    run = stage()
    run.launch()
    diverge(run, 2, 3)
    with pytest.raises(Refused, match="attempt 1 had these settings from this checkpoint, and diverged") as refused:
        run.resume(epoch=1)
    assert "--force failed-settings overrules" in refused.value.hint
    assert run.plan(epoch=1, patch={"resources.ranks_per_node": 1}).objections == (), "other ranks: another batch"
    run.resume(epoch=1, force=("failed-settings",))
    assert "overruled: failed-settings" in run.folder.decisions.read_text()


def test_a_cancelled_run_needs_a_word(stage: Stages):
    from clipctl.ops import cancel

    run = stage()
    run.launch()
    cancel.cancel(run.run, actor="ada", store=run.store, backend=run.scheduler, clock=run.time)
    run.event(EventKind.STOPPED, epoch=1, into=4, signal="SIGTERM", checkpoint="steps/step_4.pt")
    run.end(ExitCode.STOPPED)
    assert run.state is RunState.CANCELLED
    with pytest.raises(Refused, match="cancelled by a person") as refused:
        run.resume()
    assert refused.value.hint == "clipctl resume tiny --force cancelled"
    run.resume(force=("cancelled",))
    assert run.state in (RunState.QUEUED, RunState.RUNNING)


def test_a_job_that_somebody_scancelled_is_not_started_again_without_a_word(stage: Stages):
    run = stage()
    run.launch()
    run.event(EventKind.STOPPED, epoch=1, into=4, signal=15, checkpoint="steps/step_4.pt")
    saved = run.save(0, into=4)
    run.scheduler.jobs = dict.fromkeys(run.scheduler.jobs, JobState.CANCELLED)
    run.look()
    assert run.state is RunState.STOPPED
    with pytest.raises(Refused, match=r"its last job was cancelled, .* \(cancelled\)") as refused:
        run.resume()
    assert "clipctl resume tiny --force cancelled" in refused.value.hint
    again = run.resume(force=("cancelled",))
    started = run.store.history(run.run).attempts[again.identity.attempt - 1]
    assert started.parent_path == str(saved.relative_to(run.folder.path))


def test_a_held_run_is_released_first(stage: Stages):
    from clipctl.ops import hold

    run = stage()
    run.launch()
    run.end(1)
    hold.hold(run.run, reason="maintenance", actor="ada", store=run.store, backend=run.scheduler, clock=run.time)
    with pytest.raises(Refused, match="the run is held: maintenance") as refused:
        run.resume()
    assert "clipctl release tiny" in refused.value.hint
    hold.release(run.run, actor="ada", store=run.store, clock=run.time)
    run.resume()
    with pytest.raises(Refused, match="is not held"):
        hold.release(run.run, actor="ada", store=run.store, clock=run.time)


def test_a_completed_run_says_how_to_go_beyond_its_end(stage: Stages):
    run = stage()
    run.launch()
    run.save(3)
    run.event(EventKind.COMPLETED, epoch=3, into=10)
    run.end(0)
    with pytest.raises(Refused, match="the run has completed") as refused:
        run.plan()
    assert "--set train.epochs=N" in refused.value.hint
    with pytest.raises(Refused, match="nothing is left to train"):
        run.resume(patch={"train.seed": 4}, force=("nothing-left",))
    run.resume(patch={"train.epochs": 4})
    assert newest_attempt(run).train.epochs == 4


def test_what_changed_since_the_parent_was_written_is_said(stage: Stages):
    run = stage()
    run.launch()
    run.event(EventKind.STARTED, epoch=1, into=0, versions={"torch": "0.0.1", "cuda": "11", "typer": "1"})
    run.save(1)
    run.end(1)
    (line,) = run.plan().versions
    assert line.startswith("torch 0.0.1 -> ")


def test_a_job_that_was_accepted_after_all_is_not_submitted_twice(stage: Stages):
    from clipctl.domain import Unknown

    run = stage()
    run.scheduler.answer = Unknown(reason="timed out")
    begun = run.launch()
    with pytest.raises(Refused, match="may be alive"):
        run.resume()
    run.scheduler.jobs[begun.identity.nonce] = JobState.RUNNING
    run.look()
    assert run.state is RunState.RUNNING
    run.scheduler.answer = Accepted(scheduler_id="18")
    with pytest.raises(Refused, match="may be alive"):
        run.resume()
    assert len(run.scheduler.submitted) == 1


def test_status_says_what_a_person_must_not_miss_in_80_columns(stage: Stages):
    from clipctl.cli.reading import overview
    from clipctl.home import home
    from clipctl.ops import read

    fault = "train.faults=[{kind: overflow, at_epoch: 2, at_step: 3}]"
    run = stage(demo("train.precision=amp_fp16", fault))
    run.launch()
    run.event(EventKind.PROGRESS, epoch=2, into=2, loss=2.718281828, samples_per_second=340.5, steps_per_epoch=15)
    run.save(1)
    run.event(EventKind.DIVERGED, epoch=2, into=3, **NAN)
    run.end(ExitCode.DIVERGED)
    stage(demo().model_copy(update={"name": "a" * 60})).launch()
    lines = overview(read.status(home(), now=run.time.now()))
    assert max(map(len, lines)) <= 80
    assert "a" * 60 in lines
    at = next(index for index, line in enumerate(lines) if line.startswith("tiny"))
    assert lines[at].split() == ["tiny", "stopped", "2/3", "2/15", "1,088", "2.718", "340", "-"]
    assert lines[at + 1 : at + 4] == [
        "    REHEARSAL: carries the fault overflow",
        "    diverged at epoch 2, step 3 (loss nan)",
        "    next: clipctl resume tiny --epoch 1 --precision amp_bf16",
    ]
