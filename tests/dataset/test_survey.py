"""What is in shards, and what is wrong with them, told apart and counted."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

from clipctl.dataset.survey import Found, Survey, Trouble, survey
from tests.dataset.tars import image, member, pair, write_samples, write_tar
from tests.dataset.test_headers import claiming


def counts(found: Survey) -> dict[Trouble, int]:
    return {trouble: each.count for trouble, each in found.troubles.items()}


def test_a_sound_shard_is_counted(tmp_path: Path) -> None:
    shard = write_samples(
        tmp_path / "0.tar",
        {
            "0": pair(),
            "1": {"png": image(300, 200), "txt": b"  \n"},
            "2": {"webp": image(30, 20, format="WEBP"), "txt": "größer".encode(), "cls": b"1"},
        },
    )
    found = survey(str(shard))
    assert (found.shards, found.samples, found.pairs, found.seen, found.bad) == (1, 3, 3, 3, 0)
    assert found.bytes == shard.stat().st_size
    assert found.formats == {"JPEG": 1, "PNG": 1, "WEBP": 1}
    assert (dict(found.widths), dict(found.heights)) == ({6: 1, 300: 1, 30: 1}, {4: 1, 200: 1, 20: 1})
    assert found.empty_captions == 1
    assert found.troubles == {}


@pytest.mark.parametrize(
    ("sample", "trouble", "words"),
    [
        ({"txt": b"x"}, Trouble.NO_IMAGE, "00007"),
        ({"jpg": image(), "json": b"{}"}, Trouble.NO_TEXT, "00007"),
        ({"json": b"{}"}, Trouble.NEITHER, "00007"),
        ({"jpg": b"<html>", "txt": b"x"}, Trouble.IMAGE, "00007: no JPEG, PNG, WebP or GIF: it begins with b'<html>'"),
        ({"jpg": b"", "txt": b"x"}, Trouble.IMAGE, "00007: it is empty"),
        ({"png": claiming(50_000, 50_000), "txt": b"x"}, Trouble.BOMB, "00007 has 50000 x 50000 pixels"),
        ({"jpg": image(), "txt": b"caf\xe9"}, Trouble.CAPTION, "00007: 'utf-8' codec can't decode byte 0xe9"),
        ({"jpg": image(), "JPG": image(), "txt": b"x"}, Trouble.TWICE, "00007.JPG"),
    ],
    ids=["no image", "no text", "neither", "html", "empty", "bomb", "latin-1", "twice"],
)
def test_each_trouble_has_its_name_and_its_place(
    tmp_path: Path, sample: dict[str, bytes], trouble: Trouble, words: str
) -> None:
    shard = write_samples(tmp_path / "0.tar", {"00006": pair(), "00007": sample, "00008": pair()})
    found = survey(str(shard))
    assert counts(found) == {trouble: 1}
    assert found.troubles[trouble].first.startswith(f"{shard}: {words}")
    assert found.bad_by_shard == {str(shard): 1}
    assert found.pairs == (3 if trouble is Trouble.TWICE else 2)


@pytest.mark.parametrize(
    ("name", "header", "words"),
    [
        ("/etc/0.jpg", {}, "/etc/0.jpg is an absolute path"),
        ("../0.jpg", {}, "../0.jpg is a path with .."),
        ("a/../../0.jpg", {}, "a/../../0.jpg is a path with .."),
        ("0.jpg", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "0.jpg is a link to /etc/passwd"),
        ("0.jpg", {"type": tarfile.LNKTYPE, "linkname": "../x"}, "0.jpg is a link to ../x"),
        ("0.jpg", {"type": tarfile.CHRTYPE}, "0.jpg is a device or pipe"),
        ("0.jpg", {"type": tarfile.BLKTYPE}, "0.jpg is a device or pipe"),
        ("0.jpg", {"type": tarfile.FIFOTYPE}, "0.jpg is a device or pipe"),
        (
            "0.jpg",
            {"pax_headers": {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(10**12)}},
            "0.jpg is a sparse file: 1,000,000,000,000 bytes of which most are not there",
        ),
    ],
)
def test_members_that_have_no_place_in_a_shard_are_named_and_nothing_is_made_of_them(
    tmp_path: Path, name: str, header: dict[str, object], words: str
) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    pairs = [member("1.jpg", image(format="JPEG")), member("1.txt", b"x")]
    shard = write_tar(folder / "0.tar", [member(name, **header), *pairs])
    found = survey(str(shard))
    assert found.troubles[Trouble.FORBIDDEN] == Found(1, f"{shard}: {words}")
    assert found.pairs == 1
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["0.tar", "shards"]


def test_a_name_without_end_is_told_in_a_line(tmp_path: Path) -> None:
    shard = write_samples(tmp_path / "0.tar", {"x" * 100_000: {"txt": b"x"}})
    assert survey(str(shard)).troubles[Trouble.NO_IMAGE].first == f"{shard}: {'x' * 200}"


def test_folders_and_webdatasets_own_members_are_passed_over(tmp_path: Path) -> None:
    members = [member("a", type=tarfile.DIRTYPE), member("__meta__/x.jpg", b"y"), member("README", b"z")]
    pairs = [member("a/1.jpg", image(format="JPEG")), member("a/1.txt", b"x")]
    found = survey(str(write_tar(tmp_path / "0.tar", [*members, *pairs])))
    assert (found.samples, found.pairs, found.troubles) == (1, 1, {})


def test_a_cut_shard_is_one_loss_and_what_was_before_it_counts(tmp_path: Path) -> None:
    shard = write_samples(tmp_path / "0.tar", {f"{n:05d}": pair(n) for n in range(6)})
    with tarfile.open(shard) as tar:
        middle = tar.getmembers()[7].offset_data + 3  # in the fourth caption
    os.truncate(shard, middle)
    found = survey(str(shard))
    assert (found.pairs, found.samples, found.seen, found.bad) == (3, 4, 5, 1)
    assert counts(found) == {Trouble.ARCHIVE: 1}


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: None], ids=["pipe", "folder", "nothing"])
def test_what_is_no_file_is_a_lost_shard(tmp_path: Path, make: object) -> None:
    path = tmp_path / "0.tar"
    make(path)  # type: ignore[operator]
    assert counts(survey(str(path))) == {Trouble.ARCHIVE: 1}


# --- what img2dataset writes beside ------------------------------------------------------------------


def tagged(**facts: object) -> dict[str, bytes]:
    return {**pair(), "json": json.dumps(facts).encode()}


def test_safety_tags_are_counted_with_those_that_lack_them(tmp_path: Path) -> None:
    samples = {
        "0": tagged(punsafe=0.93, NSFW="NSFW"),
        "1": tagged(punsafe=0.5, NSFW="UNSURE"),
        "2": tagged(punsafe=0.4999),
        "3": tagged(punsafe=1, NSFW="UNLIKELY"),
        "4": tagged(punsafe=None, NSFW="\x1b[2J"),
        "5": tagged(punsafe=float("nan")),
        "6": {**pair(), "json": b"{"},
        "7": {**pair(), "json": b"[" * 100_000},
        "8": pair(),
    }
    found = survey(str(write_samples(tmp_path / "0.tar", samples)))
    assert (found.tags.json, found.unreadable_json, found.samples) == (6, 2, 9)
    assert (found.tags.punsafe, found.tags.unsafe(5), found.tags.unsafe(9)) == (4, 3, 2)
    assert (found.tags.nsfw, found.tags.nsfw_values) == (4, {"NSFW": 1, "UNSURE": 1, "UNLIKELY": 1, "other": 1})
    assert found.troubles == {}


@pytest.mark.parametrize(
    ("stats", "with_stats", "troubles"),
    [
        ('{"count": 3, "successes": 2}', 1, {}),
        ('{"count": 3, "successes": 3}', 1, {Trouble.STATS: 1}),
        ("{", 0, {}),
        ("[]", 0, {}),
        ('{"successes": "many"}', 0, {}),
        (None, 0, {}),
    ],
)
def test_samples_are_compared_with_what_img2dataset_says_it_wrote(
    tmp_path: Path, stats: str | None, with_stats: int, troubles: dict[Trouble, int]
) -> None:
    shard = write_samples(tmp_path / "00003.tar", {"000030000": pair(), "000030001": pair()})
    if stats is not None:
        (tmp_path / "00003_stats.json").write_text(stats)
    found = survey(str(shard))
    assert (found.with_stats, counts(found)) == (with_stats, troubles)
    assert found.bad == 0


def test_surveys_add_up(tmp_path: Path) -> None:
    first = write_samples(tmp_path / "0.tar", {"0": tagged(punsafe=0.1), "1": {"txt": b"x"}})
    second = write_samples(tmp_path / "1.tar", {"2": {"txt": b"x"}, "3": {"txt": b"x"}, "4": tagged(punsafe=0.9)})
    both = Survey()
    for shard in (first, second):
        both.add(survey(str(shard)))
    assert (both.shards, both.samples, both.pairs, both.seen, both.bad) == (2, 5, 2, 5, 3)
    assert both.troubles == {Trouble.NO_IMAGE: Found(3, f"{first}: 1")}
    assert both.bad_by_shard == {str(first): 1, str(second): 2}
    assert both.bytes == first.stat().st_size + second.stat().st_size
    assert (both.widths, both.tags.punsafe_tenths) == ({6: 2}, {"0.1": 1, "0.9": 1})
