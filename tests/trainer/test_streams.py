"""Shards that are no files: read where their scheme is allowed by name, and damaged where they do not arrive."""

from __future__ import annotations

import gzip
import os
import shlex
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.shard_files import loading, numbers, spec, write_shards
from trainer.contract import Scheme
from trainer.shards import DataError, Tally, pairs


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "it's 1 folder"
    folder.mkdir()
    write_shards(folder, shards=4, pairs=8)
    return folder


@pytest.fixture
def url(shards: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=os.fspath(shards))) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def names(shards: Path) -> str:
    files = sorted(path.name for path in shards.iterdir())
    return f"{{{','.join(files)}}}"


def cat(path: Path) -> str:
    return f"pipe:cat {shlex.quote(os.fspath(path))}"


def read(shard: str) -> tuple[int, Tally]:
    tally = Tally()
    return len(list(pairs([shard], tally))), tally


@pytest.mark.parametrize("workers", [0, 2])
def test_they_give_the_batches_that_their_files_give(shards: Path, url: str, workers: int) -> None:
    data = {"samples": 32, "batch_size": 4, "dataset_resampled": True}
    with loading(spec(f"{shards}/{names(shards)}", **data), workers=workers) as loader:
        files = numbers(loader, 1)
    for pattern, scheme in (
        (f"{url}/{names(shards)}", Scheme.HTTP),
        (f"pipe:cat {shlex.quote(os.fspath(shards))}/{names(shards)}", Scheme.PIPE),
    ):
        with loading(spec(pattern, **data, allowed_schemes=(scheme,)), workers=workers) as loader:
            assert numbers(loader, 1) == files


@pytest.mark.parametrize("pattern", ["pipe:cat 0.tar", "s3://bucket/{0..3}.tar", "https://host/0.tar"])
def test_what_is_not_allowed_by_name_is_not_opened(pattern: str) -> None:
    refused = pytest.raises(DataError, match="is not among train")
    with refused, loading(spec(pattern, samples=96, batch_size=4, allowed_schemes=(Scheme.HTTP,))):
        pass


def test_a_shard_that_is_not_there_is_one_loss(url: str) -> None:
    found, tally = read(f"{url}/none.tar")
    assert (found, tally.seen, tally.bad.total()) == (0, 1, 1)


def test_a_shard_that_does_not_arrive_whole_is_one_loss_and_its_first_pairs_count(shards: Path) -> None:
    file = min(shards.iterdir())
    whole = file.read_bytes()
    assert read(cat(file)) == (8, Tally(seen=8))
    file.write_bytes(whole[: len(whole) // 2 // 512 * 512])
    found, tally = read(cat(file))
    assert 0 < found < 8 and tally.bad.total() == 1
    assert read(cat(file) + "; exit 3")[1].bad.total() == 1
    file.write_bytes(whole.rstrip(b"\0"))
    assert read(cat(file))[1].bad.total() == 1
    file.write_bytes(whole)
    found, tally = read(cat(file) + "; exit 3")
    assert found == 8 and tally.bad.total() == 1, "the program says that it failed"


def test_what_a_program_unpacks_or_leaves_packed_is_whole(shards: Path) -> None:
    file = min(shards.iterdir())
    packed = file.with_suffix(".tar.gz")
    packed.write_bytes(gzip.compress(file.read_bytes()))
    quoted = shlex.quote(os.fspath(packed))
    for command in (f"pipe:gzip -dc {quoted}", f"pipe:cat {quoted}"):
        assert read(command) == (8, Tally(seen=8))
