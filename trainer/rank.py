"""Puts one rank of an attempt together, runs its loop, and sees to it that the last word is on disk."""

from __future__ import annotations

import difflib
import os
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch

from trainer import provenance
from trainer.checkpoints import CheckpointKeeper, Fenced, NoKeeper
from trainer.claim import still_mine
from trainer.clip import ClipTrainee, contrastive_loss
from trainer.contract import NONCE_VARIABLE, Attempt, EventKind, ExitCode, Phase
from trainer.data import Loader
from trainer.faults import Faults
from trainer.loop import Keeper, Loop, Outcome, Parts
from trainer.models import register_models
from trainer.position import Position
from trainer.ranks import Place, TorchRanks, place
from trainer.recorder import FileRecorder, Recorder, Silent
from trainer.resume import Start, Unusable, check_parent, load_start
from trainer.schedule import Geometry
from trainer.seeds import seed_for
from trainer.shards import DataError
from trainer.signals import StopRequest
from trainer.zeroshot import EvaluationError, zero_shot


def run(attempt: Attempt, folder: Path, stop: StopRequest) -> int:
    where = place(os.environ)
    recorder: Recorder = FileRecorder(folder) if where.rank == 0 else Silent()
    start = Position(Geometry.of(attempt.train, attempt.ranks))
    try:
        outcome = Rank(attempt, folder, where, recorder, stop).run()
        # Ranks that leave early with a code would have rank 0 killed while it writes its last word.
        code = outcome.code if where.rank == 0 else ExitCode.COMPLETED
    except Fenced as error:
        print(f"fenced: {error}", file=sys.stderr)
        recorder.close()
        return ExitCode.FENCED
    except (Unusable, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        code, outcome = ExitCode.REFUSED, _crashed(recorder.last or start, where, str(error))
    except Exception as error:  # noqa: BLE001 - the one place: a bug's last word must reach the events
        traceback.print_exc()
        code = ExitCode.CRASHED
        outcome = _crashed(recorder.last or start, where, f"{type(error).__name__}: {error}")
    recorder.event(outcome.kind, outcome.at, **outcome.facts)
    recorder.close()
    return code


def _crashed(at: Position, where: Place, error: str) -> Outcome:
    facts = {"error": error, "rank": where.rank, "step_in_epoch": at.step_in_epoch}
    return Outcome(ExitCode.CRASHED, EventKind.CRASHED, at, facts)


class Rank:
    def __init__(self, attempt: Attempt, folder: Path, where: Place, recorder: Recorder, stop: StopRequest) -> None:
        self.attempt, self.folder, self.spec = attempt, folder, attempt.train
        self.recorder, self.stop = recorder, stop
        recorder.beat(Phase.STARTING, Position(Geometry.of(attempt.train, attempt.ranks)))
        if where.count != attempt.ranks:
            raise Unusable(f"{where.count} ranks were started, the attempt is for {attempt.ranks}")
        self.device = _device(where, self.spec.tf32)
        self.ranks = TorchRanks(where, self.device)

    def run(self) -> Outcome:
        start = self.load_start()
        register_models()
        _refuse_unknown(self.spec.model)
        torch.manual_seed(seed_for("model", self.spec.seed))  # the same weights on all ranks
        model, preprocess_train, preprocess_val = open_clip.create_model_and_transforms(
            self.spec.model, device=self.device, precision="fp32"
        )
        tokenizer = open_clip.get_tokenizer(self.spec.model)
        loss = contrastive_loss(self.spec.loss, self.ranks.rank, self.ranks.count)
        trainee = ClipTrainee(self.spec, model, loss, self.device, self.ranks.rank, self.ranks.count)
        notices = start.notices + (self.load(trainee, start.state) if start.state else ())
        self.record_start(start.position, notices)
        pin = self.device.type == "cuda"
        source = Loader(self.spec, self.ranks.rank, start.position.stream, preprocess_train, tokenizer, pin_memory=pin)
        evaluate = partial(self.evaluate, model, tokenizer, preprocess_val, trainee.autocast)
        with closing(source), closing(self.ranks):
            return Loop(self.parts(trainee, source, evaluate)).run(start.position)

    def load_start(self) -> Start:
        """Rank 0 checks the parent's every byte; all ranks hear the verdict before any of them reads it."""
        run_folder = self.folder.parent.parent
        problem = None
        if self.attempt.parent is not None and self.ranks.rank == 0:
            problem = check_parent(run_folder, self.attempt.parent)
        if problem := self.ranks.gather(problem)[0]:
            raise Unusable(problem)
        return load_start(run_folder, self.attempt)

    def load(self, trainee: ClipTrainee, state: Mapping[str, Any]) -> tuple[str, ...]:
        if (problem := trainee.misfit(state)) and self.attempt.parent:
            raise Unusable(f"{self.attempt.parent.path} does not fit {self.spec.model}: {problem}")
        return trainee.load(state)

    def parts(self, trainee: ClipTrainee, source: Loader, evaluate: Callable[[], Mapping[str, Any]]) -> Parts:
        nonce = os.environ.get(NONCE_VARIABLE, "")
        keeper: Keeper = NoKeeper()
        if self.ranks.rank == 0:
            mine = partial(still_mine, self.folder, nonce)
            keeper = CheckpointKeeper(self.attempt, self.folder, trainee, self.recorder, mine)
        return Parts(
            spec=self.spec,
            trainee=trainee,
            ranks=self.ranks,
            source=source,
            keeper=keeper,
            recorder=self.recorder,
            stop=self.stop,
            faults=Faults(self.spec.faults, self.ranks.rank, self.folder.parent.parent / "faults"),
            evaluate=evaluate,
        )

    def evaluate(self, model: Any, tokenizer: Any, preprocess: Any, autocast: Callable[[], Any]) -> Mapping[str, Any]:
        """Top-1 and top-5 over all ranks' shares. An error is a fact of the event, never the end of the run."""
        counts, error = None, None
        try:
            counts = zero_shot(
                model,
                tokenizer,
                preprocess,
                self.spec.zeroshot,
                rank=self.ranks.rank,
                ranks=self.ranks.count,
                device=self.device,
                autocast=autocast,
            )
        except EvaluationError as problem:
            error = str(problem)
        shares = self.ranks.gather((counts, error))
        errors = [text for _, text in shares if text]
        if errors:
            return {"error": errors[0]}
        samples = sum(share.samples for share, _ in shares)
        return {
            "top1": sum(share.top1 for share, _ in shares) / samples,
            "top5": sum(share.top5 for share, _ in shares) / samples,
            "samples": samples,
        }

    def record_start(self, at: Position, notices: tuple[str, ...]) -> None:
        spec, parent = self.spec, self.attempt.parent
        hosts = self.ranks.gather(socket.gethostname())
        if self.ranks.rank != 0:
            return
        self.recorder.event(
            EventKind.STARTED,
            at,
            versions=provenance.versions() | _device_versions(self.device),
            hosts=sorted(set(hosts)),
            ranks=self.ranks.count,
            batch_size=spec.batch_size,
            workers=spec.data.workers,
            precision=spec.precision,
            steps_per_epoch=at.geometry.steps_per_epoch,
            step_in_epoch=at.step_in_epoch,
            epochs=spec.epochs,
            device=str(self.device),
            parent=parent.path if parent else None,
            faults=[fault.kind for fault in spec.faults],
        )
        for text in notices:
            self.recorder.event(EventKind.NOTICE, at, text=text)


def _refuse_unknown(model: str) -> None:
    """open_clip's own error lists its hundred models; a name with a colon is a place to look in, not one of them."""
    known, name = open_clip.list_models(), model.replace("/", "-")
    if ":" not in name and name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        instead = f"; did you mean {near[0]}?" if near else ""
        raise Unusable(f"train.model={model}: open_clip knows no such model{instead}")


def _device(where: Place, tf32: bool) -> torch.device:
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", where.local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _device_versions(device: torch.device) -> dict[str, str]:
    if device.type != "cuda":
        return {}
    nccl = ".".join(map(str, torch.cuda.nccl.version()))
    return {"cuda": str(torch.version.cuda), "nccl": nccl, "gpu": torch.cuda.get_device_name(device)}
