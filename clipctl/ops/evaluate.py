"""A checkpoint's evaluation as a job of its own: the plan, everything that can be refused, the submission."""

from __future__ import annotations

import importlib.util
import json
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipctl.backends import Backend
from clipctl.dataset.benchmarks import SUITES, lacking
from clipctl.domain import Accepted, CheckpointRecord, CheckpointState, EvaluationIdentity, History, Rejected, Unknown
from clipctl.errors import ClipctlError, Damaged, InvalidSpec, NotFound, Refused, Unavailable
from clipctl.layout import RunFolder
from clipctl.lineage import line_of
from clipctl.ops import execute
from clipctl.ops.clock import Clock
from clipctl.render import render_evaluation
from clipctl.spec import Cluster, RunSpec, patched
from clipctl.spec.checks import rules
from clipctl.store import RunRecord
from trainer import contract
from trainer.contract import Engine, TrainSpec
from trainer.evaluation import Evaluation

if TYPE_CHECKING:
    from clipctl.store.writer import Store

PACKAGE = "clip_benchmark"
SLURM = "slurm."  # the only settings that an evaluation can have otherwise than its run


@dataclass(frozen=True, kw_only=True)
class Wish:
    epoch: int  # epochs done
    suite: str
    datasets: tuple[str, ...] = ()  # in place of the suite's
    data: Path | None = None  # else the cluster's
    batch_size: int = 64
    patch: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    record: RunRecord
    checkpoint: CheckpointRecord
    evaluation: Evaluation
    spec: RunSpec
    cluster: Cluster


@dataclass(frozen=True, kw_only=True)
class Evaluating:
    identity: EvaluationIdentity
    answer: Accepted | Unknown


def plan(run: str, wish: Wish, *, store: Store, cluster: Cluster) -> EvaluationPlan:
    """NotFound: no such run, or no such checkpoint. InvalidSpec: with every set that is not on disk. Refused."""
    record, history = store.run(run), store.history(run)
    checkpoint = _checkpoint(run, history, wish.epoch)
    spec = _changed(execute.current_spec(record, history.attempts[-1]), wish.patch, cluster)
    attempt = next(each for each in history.attempts if each.number == checkpoint.manifest.attempt)
    train = contract.loads(TrainSpec, json.dumps(attempt.train))
    if train.engine is Engine.REHEARSAL:
        raise Refused(f"run '{run}' is a rehearsal: it trains no model", hint="clipctl launch demo --follow")
    evaluation = Evaluation(
        run=run,
        nonce=secrets.token_hex(8),
        epoch=wish.epoch,
        attempt=attempt.number,
        checkpoint=checkpoint.path,
        digest=checkpoint.manifest.digest,
        train=train,
        suite=", ".join(wish.datasets) or wish.suite,
        datasets=_datasets(wish),
        data=str(_data(wish, cluster)),
        batch_size=wish.batch_size,
    )
    _refuse_what_is_not_here(evaluation, cluster)
    return EvaluationPlan(record=record, checkpoint=checkpoint, evaluation=evaluation, spec=spec, cluster=cluster)


def _checkpoint(run: str, history: History, epoch: int) -> CheckpointRecord:
    """Of the line that led to where the run stands; else of the newest attempt that got so far."""
    good = [
        each
        for each in history.checkpoints
        if each.state in (CheckpointState.COMPLETE, CheckpointState.VERIFIED) and not each.manifest.step_in_epoch
    ]
    line = line_of(history)
    found = [each for each in good if each.manifest.epochs_done == epoch]
    if found:
        return max(found, key=lambda each: (each in line, each.manifest.attempt))
    epochs = sorted({each.manifest.epochs_done for each in good})
    if not epochs:
        raise NotFound(f"run '{run}' has no checkpoint of a whole epoch", hint=f"clipctl checkpoints {run}")
    there = ", ".join(map(str, epochs))
    nearest = min(epochs, key=lambda each: abs(each - epoch))
    raise NotFound(
        f"run '{run}' has no sound epoch_{epoch}.pt; it has those of the epochs {there}",
        hint=f"clipctl eval {run} --epoch {nearest}",
    )


def _changed(spec: RunSpec, patch: Mapping[str, Any], cluster: Cluster) -> RunSpec:
    foreign = [path for path in patch if not path.startswith(SLURM)]
    if foreign:
        rule = "an evaluation has its run's settings, but for its own job's: --set slurm.time=02:00:00 and the like"
        raise InvalidSpec(tuple(f"{path}={patch[path]}: {rule}" for path in foreign))
    changed = patched(spec, patch)
    if patch and (problems := tuple(problem.line("") for problem in rules(changed, cluster))):
        raise InvalidSpec(problems)
    return changed


def _datasets(wish: Wish) -> tuple[str, ...]:
    if wish.datasets:
        return tuple(dict.fromkeys(wish.datasets))
    if wish.suite not in SUITES:
        hint = "clipctl eval RUN --epoch N --dataset NAME for a single set"
        raise NotFound(f"there is no suite '{wish.suite}'; there are {', '.join(SUITES)}", hint=hint)
    return SUITES[wish.suite]


def _data(wish: Wish, cluster: Cluster) -> Path:
    if wish.data is not None:
        return wish.data.expanduser().absolute()
    rule = f"where test sets are; the profile of {cluster.name} may say evaluation_data: /DIR for all its runs"
    if cluster.evaluation_data is None:
        raise InvalidSpec((f"--dataset-root: is missing: {rule}",))
    if not cluster.evaluation_data.is_absolute():
        raise InvalidSpec((f"evaluation_data={cluster.evaluation_data}: must be absolute: {rule}",))
    return cluster.evaluation_data


def _refuse_what_is_not_here(evaluation: Evaluation, cluster: Cluster) -> None:
    """On this machine the job has this interpreter; elsewhere its own set-up may bring the package along."""
    if cluster.scheduler == "local" and importlib.util.find_spec(PACKAGE) is None:
        raise ClipctlError(f"{PACKAGE} is not installed for {sys.executable}", "pip install 'clipctl[eval]'")
    try:
        problems = lacking(Path(evaluation.data), evaluation.datasets)
    except OSError as error:
        raise Unavailable(f"{error.filename}: {error.strerror}", f"ls -l {evaluation.data}") from error
    if problems:
        raise InvalidSpec(problems, f"ls {evaluation.data}; --dataset NAME evaluates single sets")


# --- what is done -----------------------------------------------------------------------------------


def submit(plan: EvaluationPlan, *, actor: str, store: Store, backend: Backend, clock: Clock) -> Evaluating:
    """Damaged: the checkpoint's bytes are not those that were written. Refused, Unavailable: the scheduler said no."""
    if not execute.sound(plan.checkpoint, plan.record, store.history(plan.record.name), store):
        again = f"clipctl checkpoints {plan.record.name}"
        raise Damaged(f"{plan.checkpoint.path}: not the bytes that were written", hint=again)
    identity = store.intend_evaluation(plan.evaluation, actor=actor, time=clock.now())
    try:
        script = write_files(plan, identity)
    except OSError as error:
        reason = f"{error.filename or plan.record.folder}: {error.strerror}"
        store.evaluation_answered(identity.nonce, Rejected(reason=reason, transient=True), time=clock.now())
        raise Unavailable(f"{reason}; nothing was submitted", _again(plan)) from error
    said = backend.submit(script, identity)
    store.evaluation_answered(identity.nonce, said, time=clock.now())
    if isinstance(said, Rejected):
        refusal = Unavailable if said.transient else Refused
        raise refusal(f"the scheduler refused: {said.reason}", _again(plan))
    return Evaluating(identity=identity, answer=said)


def _again(plan: EvaluationPlan) -> str:
    return f"clipctl eval {plan.record.name} --epoch {plan.evaluation.epoch}"


def write_files(plan: EvaluationPlan, identity: EvaluationIdentity) -> Path:
    """evaluation.json and the script, on disk before anything is submitted; the script's path."""
    folder = RunFolder(plan.record.folder).evaluation(identity.nonce)
    for each in (folder.path, folder.logs):
        each.mkdir(mode=0o700, parents=True, exist_ok=True)
    contract.write_atomic(folder.evaluation, contract.dumps(plan.evaluation))
    contract.write_atomic(folder.submission, script_of(plan, identity))
    return folder.submission


def script_of(plan: EvaluationPlan, identity: EvaluationIdentity) -> str:
    folder = RunFolder(plan.record.folder)
    return render_evaluation(plan.spec, plan.cluster, identity=identity, run_folder=folder, python=sys.executable)
