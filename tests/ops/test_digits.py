"""The demo's data: real images out of an installed package, written whole or not at all."""

from __future__ import annotations

import io
import itertools
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from clipctl.errors import ClipctlError, Refused
from clipctl.ops.digits import NAMES, Digits, write_digits


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    return write_digits(tmp_path_factory.mktemp("digits") / "data" / "digits")


def members(shard: Path) -> dict[str, bytes]:
    with tarfile.open(shard) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_1797_images_in_eight_shards_and_a_held_out_fifth(digits: Digits) -> None:
    assert sorted(files(digits.folder)) == sorted([*digits.samples, "digits.json"])
    assert [f"train-{shard:06d}.tar" for shard in range(8)] + ["test.tar"] == list(digits.samples)
    assert digits.train_samples + digits.test_samples == 1797
    for name, count in digits.samples.items():
        keys = Counter(member.rpartition(".")[0] for member in members(digits.folder / name))
        assert len(keys) == count and set(keys.values()) == {2}
    per_class = Counter(content for name, content in members(digits.folder / "test.tar").items() if "cls" in name)
    assert sorted(per_class) == [str(digit).encode() for digit in range(10)]
    assert all(34 <= count <= 37 for count in per_class.values())


def test_no_held_out_image_is_trained_on(digits: Digits) -> None:
    def images(names: list[str]) -> Counter[bytes]:
        contents = itertools.chain.from_iterable(members(digits.folder / name).items() for name in names)
        return Counter(content for name, content in contents if name.endswith(".png"))

    *train, test = digits.samples
    assert not images(train).keys() & images([test]).keys()


def test_images_are_32_pixels_wide_and_captions_name_the_digit_in_several_ways(digits: Digits) -> None:
    shard = members(digits.folder / "train-000003.tar")
    for name, content in shard.items():
        if name.endswith(".png"):
            image = Image.open(io.BytesIO(content))
            assert image.size == (32, 32)
            low, high = image.getextrema()
            assert low < 20 and high > 200
    captions = [content.decode() for name, content in shard.items() if name.endswith(".txt")]
    named = [[name for name in NAMES if name in caption.replace(",", "").split()] for caption in captions]
    assert all(len(names) == 1 for names in named)
    assert len({caption.replace(names[0], "") for caption, names in zip(captions, named, strict=True)}) == 6


def test_the_same_bytes_every_time(digits: Digits, tmp_path: Path) -> None:
    again = write_digits(tmp_path / "again")
    assert files(again.folder) == files(digits.folder)
    assert again.samples == digits.samples


def test_a_complete_folder_is_left_alone(digits: Digits) -> None:
    before = {path: path.stat() for path in digits.folder.iterdir()}
    assert write_digits(digits.folder) == digits
    assert {path: path.stat() for path in digits.folder.iterdir()} == before


def test_a_writer_that_is_killed_leaves_no_folder_and_the_next_one_succeeds(digits: Digits, tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    script = "import sys; from pathlib import Path; from clipctl.ops.digits import write_digits; "
    writer = subprocess.Popen([sys.executable, "-c", script + "write_digits(Path(sys.argv[1]))", str(folder)])
    deadline = time.monotonic() + 120
    while not any(tmp_path.glob(".digits.*/train-000001.tar")):
        assert writer.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert not folder.exists()
    assert files(write_digits(folder).folder) == files(digits.folder)


@pytest.mark.parametrize("damage", ["cut", "missing", "foreign", "file"])
def test_what_is_not_complete_is_never_used_nor_overwritten(digits: Digits, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "digits"
    if damage == "file":
        folder.write_text("mine")
    else:
        write_digits(folder)
        shard = folder / "train-000002.tar"
        shard.write_bytes(shard.read_bytes()[:-512]) if damage == "cut" else shard.unlink()
        if damage == "foreign":
            (folder / "digits.json").write_text("[]")
    with pytest.raises(Refused, match="exists and is not a complete folder of digits") as raised:
        write_digits(folder)
    ours = damage in ("cut", "missing", "foreign")
    assert raised.value.hint == (f"mv {folder} {folder}.damaged" if ours else "clipctl data digits ANOTHER_FOLDER")
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="cannot be written: File exists"):
        write_digits(tmp_path / "file" / "digits")


def test_without_scikit_learn_the_command_to_type_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)  # how Python itself notes a module that cannot be had
    with pytest.raises(ClipctlError, match="the digits need sklearn") as raised:
        write_digits(tmp_path / "digits")
    assert raised.value.hint == "pip install 'clipctl[demo]'"
    assert not any(tmp_path.iterdir())
