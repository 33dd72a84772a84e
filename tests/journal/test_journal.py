"""The reader of what nodes wrote: torn, replaced, huge and foreign files are the normal case."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from clipctl import journal
from clipctl.domain import CheckpointState, Cursor
from clipctl.journal import LocalFiles
from clipctl.layout import AttemptFolder, JobFolder
from trainer.contract import CheckpointManifest, Claim, Event, Exit, Heartbeat, Phase, Precision, Stream, dumps, loads

FILES = LocalFiles()


@pytest.fixture
def folder(tmp_path: Path) -> AttemptFolder:
    attempt = AttemptFolder(tmp_path / "runs" / "digits" / "attempts" / "1")
    attempt.path.mkdir(parents=True)
    return attempt


def event(seq: int, kind: str = "progress", **facts: object) -> Event:
    return Event(seq=seq, time=float(seq), kind=kind, epoch=1, step=seq, samples_seen=64 * seq, facts=facts)


def line(seq: int, kind: str = "progress", **facts: object) -> bytes:
    return dumps(event(seq, kind, **facts)).encode() + b"\n"


def everything(folder: AttemptFolder, cursor: Cursor = Cursor()) -> tuple[list[Event], Cursor]:  # noqa: B008
    batches = list(journal.read_all(FILES, folder, cursor))
    return [item for facts, _ in batches for item in facts.events], batches[-1][1]


def numbers(events: object) -> list[int]:
    return [item.seq for item in events]


# --- events -----------------------------------------------------------------------------------------


def test_an_attempt_that_wrote_nothing_yet_is_no_error(tmp_path: Path) -> None:
    nowhere = AttemptFolder(tmp_path / "7")
    facts, cursor = journal.read(FILES, nowhere, Cursor())
    assert (facts.events, facts.heartbeat, facts.torn, cursor) == ((), None, False, Cursor())
    assert journal.claim(FILES, nowhere) is None
    assert journal.attempt(FILES, nowhere) is None
    assert journal.checkpoints(FILES, nowhere) == ()


def test_only_what_is_new_is_read(folder: AttemptFolder) -> None:
    folder.events.write_bytes(line(1) + line(2))
    first, cursor = journal.read(FILES, folder, Cursor())
    with folder.events.open("ab") as file:
        file.write(line(3))
    second, _ = journal.read(FILES, folder, cursor)
    assert (numbers(first.events), numbers(second.events)) == ([1, 2], [3])


def test_a_torn_last_line_waits_until_it_is_whole(folder: AttemptFolder) -> None:
    whole = line(2)
    folder.events.write_bytes(line(1) + whole[:20])
    facts, cursor = journal.read(FILES, folder, Cursor())
    assert (numbers(facts.events), facts.torn, facts.skipped) == ([1], True, 0)
    with folder.events.open("ab") as file:
        file.write(whole[20:])
    facts, _ = journal.read(FILES, folder, cursor)
    assert (numbers(facts.events), facts.torn) == ([2], False)


def test_garbage_is_counted_and_unknown_kinds_are_kept(folder: AttemptFolder) -> None:
    lines = [b"\x00\x00\x00\n", b"[1, 2]\n", line(1), b'{"seq": "one"}\n', b"\n", line(2, "of_a_newer_version", x=1)]
    folder.events.write_bytes(b"".join(lines))
    facts, _ = journal.read(FILES, folder, Cursor())
    assert [(item.seq, item.kind) for item in facts.events] == [(1, "progress"), (2, "of_a_newer_version")]
    assert facts.skipped == 3


def test_bytes_that_are_no_text_spoil_a_word_and_not_the_event(folder: AttemptFolder) -> None:
    folder.events.write_bytes(line(1, "crashed", error="was XX here").replace(b"XX", b"\xff\xfe"))
    facts, _ = journal.read(FILES, folder, Cursor())
    assert facts.events[0].facts["error"] == "was �� here"


def test_a_file_that_was_replaced_is_read_again_and_each_event_given_once(folder: AttemptFolder) -> None:
    folder.events.write_bytes(line(1) + line(2))
    _, cursor = journal.read(FILES, folder, Cursor())
    copy = folder.path / "copy"
    copy.write_bytes(line(1) + line(2) + line(3))
    os.replace(copy, folder.events)
    assert numbers(everything(folder, cursor)[0]) == [3]


def test_a_file_that_was_replaced_is_known_even_where_a_line_ends_at_the_old_place(folder: AttemptFolder) -> None:
    before = line(1) + line(2)
    folder.events.write_bytes(before)
    _, cursor = journal.read(FILES, folder, Cursor())
    copy = folder.path / "copy"
    copy.write_bytes(line(3, note="x" * (len(before) - len(line(3, note="")))) + line(4))
    os.replace(copy, folder.events)
    assert numbers(everything(folder, cursor)[0]) == [3, 4]


@pytest.mark.parametrize("rest", [b"", line(1), line(1, note="x" * 400) + line(2) + line(3), line(3, note="x" * 900)])
def test_a_file_that_was_cut_or_written_over_goes_on_with_what_is_new(folder: AttemptFolder, rest: bytes) -> None:
    folder.events.write_bytes(line(1) + line(2))
    _, cursor = journal.read(FILES, folder, Cursor())
    with folder.events.open("r+b") as file:  # the same inode
        file.truncate(0)
        file.write(rest)
    assert numbers(everything(folder, cursor)[0]) == ([3] if b'"seq": 3' in rest else [])


def test_an_event_that_was_written_twice_counts_once(folder: AttemptFolder) -> None:
    folder.events.write_bytes(line(1) + line(2) + line(2) + line(1) + line(3))
    assert numbers(everything(folder)[0]) == [1, 2, 3]


def test_a_huge_line_is_passed_over_in_little_memory(folder: AttemptFolder, soak: object) -> None:
    size = soak(12, 100) << 20
    with folder.events.open("wb") as file:
        file.write(line(1))
        for _ in range(size >> 20):
            file.write(b"x" * (1 << 20))
    tracemalloc.start()
    torn, cursor = journal.read(FILES, folder, Cursor())
    with folder.events.open("ab") as file:
        file.write(b"\n" + line(2))
    whole, _ = journal.read(FILES, folder, cursor)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (numbers(torn.events), torn.torn, torn.skipped) == ([1], True, 0)
    assert (numbers(whole.events), whole.torn, whole.skipped) == ([2], False, 1)
    assert peak < 8 << 20


def test_a_great_growth_comes_in_batches(folder: AttemptFolder) -> None:
    block = b"".join(line(seq, note="y" * 200) for seq in range(1, 60_001))
    folder.events.write_bytes(block)
    batches = list(journal.read_all(FILES, folder, Cursor()))
    sizes = [len(facts.events) for facts, _ in batches]
    assert sum(sizes) == 60_000
    assert max(sizes) < 30_000
    assert batches[-1][1].offset == len(block)


def test_an_events_file_that_is_a_folder_holds_no_events(folder: AttemptFolder) -> None:
    folder.events.mkdir()
    assert everything(folder) == ([], Cursor())


_PIECES = st.one_of(
    st.builds(line, st.integers(1, 12), st.sampled_from(["progress", "checkpoint", "newer"])),
    st.sampled_from([b"\n", b"garbage\n", b"\xff\xff\n", b"{}\n", b'{"seq": 1', b"  \r\n"]),
)


@settings(max_examples=60, deadline=None)
@given(pieces=st.lists(_PIECES, max_size=30), cuts=st.lists(st.integers(0, 6000), max_size=12))
def test_reading_in_any_pieces_gives_what_reading_at_once_gives(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], cuts: list[int]
) -> None:
    data = b"".join(pieces)
    at_once = AttemptFolder(tmp_path_factory.mktemp("whole"))
    at_once.events.write_bytes(data)
    expected = journal.read(FILES, at_once, Cursor())[0]
    growing = AttemptFolder(tmp_path_factory.mktemp("growing"))
    events: list[Event] = []
    cursor, skipped = Cursor(), 0
    growing.events.touch()
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
        with growing.events.open("ab") as file:
            file.write(data[start:end])
        facts, cursor = journal.read(FILES, growing, cursor)
        events += facts.events
        skipped += facts.skipped
    assert (tuple(events), skipped) == (expected.events, expected.skipped)


_ANYTHING = st.one_of(st.integers(-5, 5), st.floats(allow_nan=False), st.booleans(), st.none(), st.text(max_size=3))
_NAMES = ["seq", "time", "kind", "epoch", "step", "samples_seen", "schema", "facts", "loss"]


@given(
    changes=st.dictionaries(st.sampled_from(_NAMES), _ANYTHING, max_size=4), without=st.sets(st.sampled_from(_NAMES))
)
def test_an_event_is_what_the_contract_makes_of_its_line(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, object], without: set[str]
) -> None:
    raw = {key: value for key, value in {**json.loads(line(1, loss=2.5)), **changes}.items() if key not in without}
    text = json.dumps(raw)
    folder = AttemptFolder(tmp_path_factory.mktemp("line"))
    folder.events.write_text(text + "\n")
    found, _ = journal.read(FILES, folder, Cursor(seq=-10))
    try:
        assert found.events == (loads(Event, text),)
    except ValueError:
        assert (found.events, found.skipped) == ((), 1)


def test_landmarks_are_the_same_however_the_events_arrive() -> None:
    kinds = ["started", "progress", "checkpoint", "progress", "diverged", "diverged"]
    events = [event(seq, kind) for seq, kind in enumerate(kinds, start=1)]
    at_once = journal.landmarks(events)
    in_two = journal.landmarks(events[3:], journal.landmarks(events[:3]))
    assert at_once == in_two
    found = (at_once.started, at_once.progress, at_once.checkpoint, at_once.diverged, at_once.final)
    assert [item.seq for item in found if item] == [1, 4, 3, 5, 6]


# --- single files -----------------------------------------------------------------------------------


def test_small_files_are_read_or_are_not_there(folder: AttemptFolder, tmp_path: Path) -> None:
    beat = Heartbeat(counter=3, phase=Phase.TRAINING, epoch=1, step=5, samples_seen=320, time=1.0, loss=2.5)
    claim = Claim(nonce="n1", job_id="12", restart_count=0, host="a", time=1.0)
    left = Exit(code=86, time=2.0)
    job = JobFolder(tmp_path)
    folder.heartbeat.write_text(dumps(beat))
    folder.claim.write_text(dumps(claim))
    job.exit.write_text(dumps(left))
    assert journal.heartbeat(FILES, folder) == beat == journal.read(FILES, folder, Cursor())[0].heartbeat
    assert (journal.claim(FILES, folder), journal.exit_record(FILES, job)) == (claim, left)
    for path in (folder.heartbeat, folder.claim, job.exit):
        path.write_text('{"counter": 3, "nonce')
    assert journal.heartbeat(FILES, folder) is None
    assert journal.claim(FILES, folder) is None
    assert journal.exit_record(FILES, job) is None


# --- checkpoints ------------------------------------------------------------------------------------


def publish(folder: Path, name: str, *, epochs_done: int, size: int = 100, stated: int | None = None) -> None:
    folder.mkdir(exist_ok=True)
    manifest = CheckpointManifest(
        file=name,
        size=size if stated is None else stated,
        digest=f"sha256:{epochs_done}",
        run="digits",
        attempt=1,
        epochs_done=epochs_done,
        step=10 * epochs_done,
        step_in_epoch=0,
        samples_seen=640 * epochs_done,
        loss=1.0,
        finite=True,
        precision=Precision.FP32,
        stream=Stream(batch_size=64, ranks=1, workers=0),
        time=float(epochs_done),
    )
    (folder / name).write_bytes(b"w" * size)
    (folder / f"{name}.json").write_text(dumps(manifest))


def test_a_checkpoint_is_a_manifest_and_a_file_of_its_size(folder: AttemptFolder) -> None:
    publish(folder.checkpoints, "epoch_10.pt", epochs_done=10)
    publish(folder.checkpoints, "epoch_2.pt", epochs_done=2)
    publish(folder.steps, "step_50.pt", epochs_done=5)
    found = journal.manifests(FILES, folder)
    assert [record.path for record in found] == [
        "attempts/1/checkpoints/epoch_2.pt",
        "attempts/1/steps/step_50.pt",
        "attempts/1/checkpoints/epoch_10.pt",
    ]


def test_nothing_else_is_a_checkpoint(folder: AttemptFolder) -> None:
    publish(folder.checkpoints, "epoch_1.pt", epochs_done=1)
    publish(folder.checkpoints, "epoch_3.pt", epochs_done=3, stated=101)  # cut short
    publish(folder.checkpoints, "epoch_4.pt", epochs_done=4, size=0, stated=100)
    publish(folder.checkpoints, "epoch_5.pt", epochs_done=5)
    (folder.checkpoints / "epoch_5.pt").unlink()  # pruned, its manifest not yet
    (folder.checkpoints / "tmp.pt").write_bytes(b"w" * 100)
    (folder.checkpoints / "epoch_6.pt").write_bytes(b"")
    (folder.checkpoints / "epoch_70.pt").mkdir()
    publish(folder.checkpoints, "epoch_71.pt", epochs_done=71)
    (folder.checkpoints / "epoch_71.pt").unlink()
    (folder.checkpoints / "epoch_71.pt").mkdir()
    (folder.checkpoints / "epoch_8.pt").write_bytes(b"w" * 100)
    (folder.checkpoints / "epoch_8.pt.json").write_text('{"file": "epoch_8.pt", "size"')
    os.link(folder.checkpoints / "epoch_1.pt", folder.checkpoints / "epoch_9.pt")
    os.link(folder.checkpoints / "epoch_1.pt.json", folder.checkpoints / "epoch_9.pt.json")  # speaks of another file
    assert [record.path for record in journal.manifests(FILES, folder)] == ["attempts/1/checkpoints/epoch_1.pt"]
    damaged = [r.manifest.epochs_done for r in journal.checkpoints(FILES, folder) if r.state is CheckpointState.DAMAGED]
    assert damaged == [3, 4]
