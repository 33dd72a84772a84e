"""A run that nobody looks after but the watchdog, while a plot befalls it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clipctl.domain import Form
from tests.slurm.desk import SlurmDesk
from tests.story.plot import Blow, Plot, Scene
from tests.story.run_files import RunFiles
from tests.story.watch import Ticking, Watch, by_itself

LEAD = 90  # seconds before the end of wall time that the ranks are told; slurmctld looks twice a minute


@dataclass(frozen=True)
class Story:
    watch: Watch
    plot: Plot
    patience: float  # seconds for each thing that is waited for

    @property
    def desk(self) -> SlurmDesk:
        return self.watch.desk

    @property
    def run(self) -> RunFiles:
        return self.watch.run(self.plot.trouble.preset)

    def tell(self) -> None:
        """From the launch to the end. AssertionError: it went otherwise."""
        self.launch()
        with by_itself(self.watch) as ticking:
            for scene in self.plot.scenes:
                self.play(scene, ticking)
            ticking.until(lambda: self.over, self.patience, "the end")
        assert not (wrong := list(self.differences())), "\n".join([str(self.plot), *wrong])

    def launch(self) -> None:
        """A few steps an epoch teach it nothing for long: how soon it has to learn is no part of the story."""
        plot = self.plot
        self.desk.cluster.profile(self.desk.root, limits={"loss": {"slow_start_epochs": plot.epochs}})
        sets = (
            "train.engine=rehearsal", "train.data.workers=0", f"resources.nodes={plot.nodes}",
            f"resources.ranks_per_node={plot.gpus}", f"train.epochs={plot.epochs}", "train.optim.warmup=8",
            f"train.data.train_num_samples={plot.steps * plot.ranks * plot.trouble.batch_size}",
            f"train.rehearsal.step_seconds={plot.step_seconds}", f"slurm.save_before_end={LEAD}",
            f"train.log_every_n_steps={plot.steps}",
            f"train.faults=[{{kind: {plot.trouble.fault}, at_epoch: {plot.fault_epoch}, at_step: {plot.fault_step}}}]",
            *plot.trouble.settings,
        )  # fmt: skip
        options = [item for text in sets for item in ("--set", text)]
        said = self.desk.clipctl("launch", plot.trouble.preset, "--cluster", "emulated", "-y", *options)
        assert said.code == 0, said.err

    # --- what befalls it --------------------------------------------------------------------------------

    def play(self, scene: Scene, ticking: Ticking) -> None:
        """Again where the job that was struck had ended by itself: a divergence does not wait for its turn."""
        blow = scene.blow
        ticking.until(lambda: self.has_come(scene), self.patience, f"epoch {scene.epoch} before {blow}")
        if blow is Blow.CONTROLLER:
            self.desk.cluster.stop_controller()
            self.desk.cluster.start_controller()
            return
        before, struck = self.happened(blow), ""
        deadline = time.monotonic() + self.patience
        while self.happened(blow) == before:
            assert time.monotonic() < deadline and not self.over, f"{blow} was not seen"
            ticking.check()
            if (job := self.running()) and job != struck:
                self.strike(scene, job)
                struck = job
            time.sleep(0.3)

    def happened(self, blow: Blow) -> int:
        kind = "node_failed" if blow is Blow.DEAD_SLURMD else blow.value
        return Counter(self.run.kinds())[kind]

    def strike(self, scene: Scene, job: str) -> None:
        match scene.blow:
            case Blow.WALL_TIME:
                self.shorten(job)
            case Blow.PREEMPTION:
                free = len(self.desk.cluster.nodes) - self.plot.nodes
                self.desk.cluster.run(
                    "sbatch", "--output=/dev/null", "--partition=urgent", f"--nodes={free + 1}", "--wrap=sleep 2"
                )
            case Blow.DEAD_NODE:
                self.desk.cluster.kill_node(self.node(job, scene.victim))
            case Blow.DEAD_SLURMD:
                node = self.node(job, scene.victim)
                self.watch.living.apart.add(node)
                self.desk.cluster.kill_node(node, ranks=False)

    def shorten(self, job: str) -> None:
        """An administrator gives it less time: what follows, signal and end, is Slurm's own doing."""
        elapsed = int(self.desk.cluster.run("squeue", "-h", "-j", job, "-o", "%M", check=False).stdout.strip()
                      .replace("-", ":").split(":")[-2] or 0)  # fmt: skip
        self.desk.cluster.run("scontrol", "update", f"jobid={job}", f"timelimit={elapsed + 2}", check=False)

    def node(self, job: str, index: int) -> str:
        names = self.desk.cluster.run("squeue", "-h", "-j", job, "-o", "%N").stdout.strip()
        return self.desk.cluster.run("scontrol", "show", "hostnames", names).stdout.split()[index]

    # --- where it stands --------------------------------------------------------------------------------

    def running(self) -> str:
        """The id of a job whose ranks train."""
        listed = self.desk.cluster.run("squeue", "-h", "-t", "R", "-o", "%A|%k", check=False).stdout.split()
        newest = f"|clipctl:{self.run.name}:{len(self.run.intents())}:"
        found = [line.split("|")[0] for line in listed if newest in line]
        return found[0] if found and self.run.beat().get("phase") in ("training", "checkpointing") else ""

    def has_come(self, scene: Scene) -> bool:
        beat = self.run.beat()
        reached = bool(beat) and beat["attempt"] >= scene.attempt and beat["epoch"] >= scene.epoch
        return reached and bool(self.running())

    @property
    def over(self) -> bool:
        return self.run.completed and self.run.settled

    # --- how it should have gone ------------------------------------------------------------------------

    def differences(self) -> Iterator[str]:
        run, plot = self.run, self.plot
        wanted = Counter(scene.blow for scene in plot.scenes)
        for blow in wanted.keys() - {Blow.CONTROLLER, Blow.DEAD_SLURMD}:
            if self.happened(blow) < wanted[blow]:
                yield f"{blow}: {self.happened(blow)} times, not {wanted[blow]}"
        if actors := {intent["actor"] for intent in run.intents()[1:]} - {"watchdog"}:
            yield f"others had a hand in it: {actors}"
        diverged = [item for item in run.incidents() if item["kind"] == "diverged"]
        if [(item["epoch"], item["form"]) for item in diverged] != [(plot.fault_epoch, plot.trouble.form)]:
            yield f"divergences: {diverged}"
        else:
            yield from self.end(diverged[0]["attempt"])
            yield from self.cure(diverged[0]["attempt"] + 1)
        yield from late_words(run)

    def end(self, number: int) -> Iterator[str]:
        """Of the attempt that diverged. What is stuck would go on: the watchdog stops it while it does."""
        wanted = ["watchdog"] if self.plot.trouble.form is Form.PLATEAU else []
        stops = [entry["actor"] for entry in self.run.entries("stop") if entry["attempt"] == number]
        if stops != wanted:
            yield f"attempt {number} was stopped by {stops}, not by {wanted}"

    def cure(self, number: int) -> Iterator[str]:
        """By one formula: onset in epoch e, e - 1 done, six of them given up."""
        attempt, done = self.run.attempt(number), self.plot.fault_epoch - 1 - self.run.rollback
        parent, train = attempt["parent"], attempt["train"]
        begun_at = (parent["epochs_done"], Path(parent["path"]).name)
        if begun_at != (done, f"epoch_{done}.pt"):
            yield f"attempt {number} began at {begun_at}, not when {done} were done"
        cure = self.plot.trouble.cure
        if (train["precision"], train["batch_size"], train["tf32"]) != (*cure, True):
            yield f"attempt {number} has {train['precision']}, {train['batch_size']} per GPU, tf32 {train['tf32']}"
        last = self.run.attempt(len(self.run.intents()))["train"]
        if (last["precision"], last["batch_size"]) != cure:
            yield f"the last attempt has {last['precision']}, {last['batch_size']} per GPU"


def late_words(run: RunFiles) -> Iterator[str]:
    """Nothing of an attempt is published once a later one is claimed, whoever of it still lives."""
    for number in range(2, len(run.intents()) + 1):
        claimed = run.claimed_at(number)
        late = [saved.place for saved in run.saved(number - 1) if claimed is not None and saved.time > claimed]
        if late:
            yield f"published after attempt {number} was claimed: {late}"
