"""`gapmllm doctor`: what it finds here, and what it says of machines that lack something."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import namedtuple

import av
import llguidance
import pytest
import typer
from typer.testing import CliRunner

from gapmllm.cli.doctor import doctor
from gapmllm.run import checks, hardware
from gapmllm.run.checks import CHECKSUMS, Finding
from gapmllm.run.doctor import ABLE, Diagnosis, diagnose

FINE = tuple(Finding(name, "ok", "here") for name in dict.fromkeys(sum(ABLE.values(), ())))
GONE = ("torch", "transformers", "av", "llguidance")


@pytest.fixture(scope="module")
def here() -> Diagnosis:
    return diagnose()


def one(check) -> Finding:
    (finding,) = check()
    return finding


def test_this_machine_has_no_problem(here):
    assert [finding for finding in here.problems if finding.name != "memory"] == []
    found = {finding.name: finding for finding in here.findings}
    assert len(found) == len(here.findings)
    assert found["video"].state == found["grammar"].state == found["tokenizer"].state == "ok"
    assert here.able["train"] == here.able["ask a model about a video"] == []


def test_what_is_needed_is_looked_at(here):
    assert set(sum(ABLE.values(), ())) <= {finding.name for finding in here.findings}


def test_the_text_says_all_of_it():
    fine = [finding for finding in FINE if finding.name not in ("java", "peft")]
    no_java, broken = Finding("java", "note", "not on the PATH", "install Java"), Finding("x", "problem", "broken")
    found = Diagnosis((*fine, no_java, broken))
    lines = str(found).splitlines()
    assert [line.split() for line in lines if "PATH" in line] == [["note", "java", "not", "on", "the", "PATH"]]
    assert "note: java: install Java" in lines
    assert "works: train" in lines
    assert "does not work: train adapters (lora) (peft)" in lines
    assert "does not work: METEOR among the scores of captions (java)" in lines
    assert found.problems == [broken]


def test_without_packages_it_says_so_and_ends_with_status_1(tmp_path):
    code = (
        f"import sys, typer; sys.modules.update(dict.fromkeys({GONE}))\n"
        "from gapmllm.cli.doctor import doctor\n"
        f"sys.argv = ['doctor', '--out', {str(tmp_path / 'all.json')!r}]\n"
        "typer.run(doctor)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    found = json.loads((tmp_path / "all.json").read_text())
    assert [f["name"] for f in found["findings"] if f["state"] == "problem"] == [
        *("torch", "transformers", "accelerate", "av", "llguidance")  # accelerate needs torch
    ]
    assert "not checked: ModuleNotFoundError: import of torch halted" in done.stdout
    assert 'problem: torch: pip install --force-reinstall "torch' in done.stdout
    assert "score prediction records" in found["works"]
    assert {"torch", "transformers", "av", "grammar"} <= set(found["does_not_work"]["ask a model about a video"])


def test_a_check_that_fails_is_a_finding_and_the_others_go_on():
    def breaks():
        yield Finding("first", "ok", "")
        raise RuntimeError("two\nlines")

    def lacks_it():
        raise ImportError("no such thing")

    found = diagnose([lacks_it, breaks, lacks_it])
    assert [(f.name, f.state, f.found) for f in found.findings] == [
        ("lacks it", "problem", "not checked: ImportError: no such thing"),
        ("first", "ok", ""),
        ("breaks", "problem", "not checked: RuntimeError: two"),
        ("lacks it", "note", "not checked: ImportError: no such thing"),  # a problem before it tells why
    ]


@pytest.mark.parametrize(
    ("content", "state", "message"),
    [
        ({"a.bin": b"weights"}, "ok", "as shipped"),
        ({"a.bin": b"weightz"}, "problem", "a.bin has changed"),
        ({}, "problem", "a.bin is missing"),
    ],
)
def test_shipped_weights_are_checked(tmp_path, monkeypatch, content, state, message):
    monkeypatch.setattr("gapmllm.model.presets.FOLDER", tmp_path)
    (tmp_path / "nano").mkdir()
    assert one(checks.weights).state == "note"
    (tmp_path / "nano" / CHECKSUMS).write_text(json.dumps({"a.bin": hashlib.sha256(b"weights").hexdigest()}))
    for name, data in content.items():
        (tmp_path / "nano" / name).write_bytes(data)
    found = one(checks.weights)
    assert (found.name, found.state) == ("weights of nano", state)
    assert message in found.found


def test_weights_that_are_not_shipped_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr("gapmllm.model.presets.FOLDER", tmp_path)
    assert (one(checks.weights).state, "its answers" in one(checks.weights).found) == ("note", True)


def test_versions_that_are_too_old_are_told(monkeypatch):
    assert checks._imported("numpy", ">=1.0").state == "ok"
    found = checks._imported("numpy", ">=99")
    assert (found.state, found.advice) == ("problem", 'pip install -U "numpy>=99"')
    assert found.found.endswith("needed is >=99")
    monkeypatch.setattr(checks.metadata, "requires", lambda _: ["numpy>=99", "nowhere", 'peft>=99; extra == "lora"'])
    other = next(finding for finding in checks.packages() if finding.name == "other packages")
    assert (other.state, other.found) == ("problem", "missing or too old: numpy >=99, nowhere")


def test_video_without_some_formats(monkeypatch):
    monkeypatch.setattr(av, "codecs_available", {"mpeg4", "h264", "hevc"})
    video, decoders = checks.video()
    assert (video.state, video.found) == ("ok", "3 frames written with mpeg4 and read")
    assert (decoders.state, decoders.found) == ("note", "H.264, HEVC; not VP9, AV1")


def test_a_grammar_that_forbids_nothing_is_found(monkeypatch):
    monkeypatch.setattr(llguidance.LLMatcher, "compute_logit_bias", lambda _: bytes([200] * 256), raising=False)
    with pytest.raises(ValueError, match=r"let the letters .* through"):
        one(checks.decoding)


@pytest.mark.parametrize(
    ("gib", "state", "name"), [(1, "ok", "nano: "), (20, "ok", "qwen3-vl-2b: "), (0, "problem", "")]
)
def test_the_largest_model_that_fits(monkeypatch, gib, state, name):
    monkeypatch.setattr("gapmllm.model.PRESETS", ("nano", "qwen3-vl-2b"))
    monkeypatch.setattr("gapmllm.model.memory.free_memory", lambda _: gib * hardware.GIB)
    found = one(hardware.largest_model)
    assert (found.state, found.found.startswith(name)) == (state, True)


def test_a_disk_without_room_and_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "not" / "yet"))
    usage = namedtuple("usage", "total used free")
    for gib, states in ((100, ["ok", "ok"]), (1, ["ok", "note"]), (0, ["problem", "note"])):
        monkeypatch.setattr(hardware.shutil, "disk_usage", lambda _, gib=gib: usage(0, 0, gib * hardware.GIB))
        assert [finding.state for finding in hardware.disk()] == states
    monkeypatch.setattr(hardware.os, "access", lambda *_: False)
    _, cache = hardware.disk()
    assert "cannot be written: no downloads" in cache.found


def test_what_is_not_installed_is_a_note(monkeypatch):
    monkeypatch.setattr(checks.shutil, "which", lambda _: None)
    assert one(checks.java).state == "note"
    monkeypatch.setattr(checks, "EXTRAS", {"no-such-package": ("lora", "training of adapters")})
    *_, last = checks.packages()
    assert (last.state, last.advice) == ("note", 'pip install "gapmllm[lora]"')
    assert last.found == "not installed: no training of adapters"


@pytest.mark.parametrize(("extra", "status"), [((), 0), ((Finding("x", "problem", "broken", "mend it"),), 1)])
def test_the_exit_status_tells_of_problems(monkeypatch, tmp_path, extra, status):
    monkeypatch.setattr("gapmllm.run.doctor.diagnose", lambda: Diagnosis(FINE + extra))
    app = typer.Typer()
    app.command()(doctor)
    done = CliRunner().invoke(app, ["--out", str(tmp_path / "all.json")])
    assert done.exit_code == status
    assert ("problem: x: mend it" in done.stdout) == bool(extra)
    assert json.loads((tmp_path / "all.json").read_text())["does_not_work"] == {}
