from __future__ import annotations

import braceexpand
import pytest
from hypothesis import given, strategies as st

from clipctl.spec.shards import expand

TEXT = st.text("ab/.-_0", max_size=4)
NUMBER = st.integers(-30, 30).map(str) | st.sampled_from(["00", "007", "-01", "011"])
RANGE = st.builds("{{{}..{}}}".format, NUMBER, NUMBER)
LIST = st.lists(TEXT, min_size=2, max_size=3).map(lambda items: "{" + ",".join(items) + "}")


@given(st.lists(TEXT | RANGE | LIST, max_size=4).map("".join))
def test_a_pattern_means_what_it_means_to_webdataset(pattern: str) -> None:
    assert list(expand(pattern)) == list(braceexpand.braceexpand(pattern))


def test_the_shards_of_laion2b() -> None:
    shards = list(expand("/data/laion2B-en/{00000..23295}.tar"))
    assert (len(shards), shards[0], shards[-1]) == (23296, "/data/laion2B-en/00000.tar", "/data/laion2B-en/23295.tar")


ODD = ["{0..9", "0..9}", "}{", "{a,{0..1}}", "{x}", "{}", "${HOME}", "{a..z}", "{0..9..2}", "\\{a,b}"]


@pytest.mark.parametrize("pattern", ODD)
def test_what_shells_and_libraries_read_differently_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="must have"):
        list(expand(pattern))


def test_a_bomb_is_refused_before_it_goes_off() -> None:
    with pytest.raises(ValueError, match="more than 1,000,000 files"):
        next(expand("{0..999999999}" * 50))
