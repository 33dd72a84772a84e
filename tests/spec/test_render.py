"""The job script: pure, and no value of a spec is ever read as shell."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import jinja2
import pytest
from hypothesis import given, settings, strategies as st

from clipctl.layout import RunFolder
from clipctl.render import environment, render
from clipctl.spec import Cluster, load_cluster, patched, resolve
from tests.spec.hostile import FOLDER, HOSTILE, IDENTITY, recorder, run, words


def script_of(cluster: Cluster, folder: RunFolder, python: str = "/usr/bin/python3", ranks: int = 2) -> str:
    spec = patched(resolve("demo"), {"resources.ranks_per_node": ranks, "train.data.train_num_samples": 10**6})
    return render(spec, cluster, identity=IDENTITY, run_folder=folder, python=python)


def test_hostile_values_arrive_as_they_are_and_nothing_of_them_runs(
    tmp_path_factory: pytest.TempPathFactory, soak: Callable[[int, int], int]
) -> None:
    @settings(max_examples=soak(25, 1000))
    @given(
        FOLDER,
        FOLDER,
        st.dictionaries(st.sampled_from(["A_1", "OMPI_MCA_btl", "no_proxy"]), HOSTILE),
        st.integers(1, 64),
    )
    def check(root: str, interpreter: str, env: dict[str, str], ranks: int) -> None:
        base = tmp_path_factory.mktemp("hostile")
        python, records, folder = base / interpreter, base / "records", RunFolder.of(base / "x" / root, "demo")
        recorder(python)
        cluster = load_cluster("local").model_copy(update={"env": env})

        script = script_of(cluster, folder, str(python), ranks)
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        done = run(script, folder, records)

        log = folder.job(IDENTITY.nonce).logs / "script.log"
        assert done.returncode == 0, log.read_text()
        attempt = str(folder.attempt(3).path)
        claim, spawn, *_ = (words(records / str(n)) for n in range(len(list(records.glob("[0-9]*")))))
        assert claim[:4] == [str(python), "-P", "-m", "trainer.claim"]
        assert claim[-1] == attempt
        assert spawn[:6] == [str(python), "-P", "-m", "trainer.spawn", "-n", str(ranks)]
        assert spawn[-1] == attempt
        environ = dict(item.split("=", 1) for item in words(records / "env"))
        assert environ.items() >= (env | {"CLIPCTL_NONCE": "f00d"}).items()
        assert (records / "cwd").read_text() == f"{folder.path}\n"
        assert json.loads(folder.job(IDENTITY.nonce).exit.read_text())["code"] == 0
        assert not [path for path in base.rglob("canary") if path.is_file()]

    check()


def test_set_up_lines_run_as_shell_before_the_claim(tmp_path: Path) -> None:
    """Lines of the cluster profile are code by intent: `module load`, `source activate`."""
    python = recorder(tmp_path / "python")
    cluster = load_cluster("local").model_copy(
        update={"setup": ('greeting="hello $LOUD"', "export greeting"), "env": {"LOUD": "you"}}
    )
    folder = RunFolder.of(tmp_path, "demo")
    assert run(script_of(cluster, folder, str(python)), folder, tmp_path / "records").returncode == 0
    assert "greeting=hello you" in words(tmp_path / "records/env")


def test_the_same_submission_is_the_same_script_whatever_surrounds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, cluster, folder = resolve("demo"), load_cluster("local"), RunFolder.of(Path("/scratch"), "demo")
    scripts = set()
    for home in ("/one", "/two"):
        monkeypatch.setenv("CLIPCTL_HOME", home)
        monkeypatch.setenv("HOME", home)
        scripts.add(render(spec, cluster, identity=IDENTITY, run_folder=folder, python="/usr/bin/python3"))
    assert len(scripts) == 1
    assert scripts.pop().startswith("#!/bin/bash\n")


def test_a_template_cannot_forget_to_quote() -> None:
    for forgotten in (
        "{{ value }}",
        "{{ value | upper }}",
        "{{ value | quoted | upper }}",
        "{{ value ~ '' }}",
        "{{ 'x' }}",
    ):
        with pytest.raises(TypeError, match=r"without \| quoted"):
            environment().from_string(forgotten).render(value="a; b")
    assert environment().from_string("{{ value | quoted }}").render(value="a; b") == "'a; b'"
    assert environment().from_string("{{ value | as_code }}").render(value="a; b") == "a; b"


def test_a_template_cannot_misspell_a_value() -> None:
    with pytest.raises(jinja2.UndefinedError):
        environment().from_string("{{ jobname | quoted }}").render(job_name="x")


@pytest.mark.parametrize("filter_name", ["quoted", "as_code"])
@pytest.mark.parametrize("text", ["a\nb", "a\0b", "a\x1bb", "a\u2028b", "a\udcffb"])
def test_what_breaks_a_line_never_gets_into_a_script(filter_name: str, text: str) -> None:
    """Specs cannot hold it; this is the second lock."""
    with pytest.raises(ValueError, match="control character"):
        environment().from_string(f"{{{{ value | {filter_name} }}}}").render(value=text)
