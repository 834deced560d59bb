"""An evaluation that is stopped, killed, shared out or asked for again gives the same records, byte by byte."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_predict import scene_of, written
from test_train_parallel import free_port

from gapmllm.run import evaluate as module
from gapmllm.run.evaluate import Options, evaluate
from gapmllm.run.parts import PARTS, Parts
from gapmllm.run.predict import Said

SHORT = {"decoding": "free", "tasks": ("points", "grounding"), "max_tokens": 8}
COMMAND = f"""
SHORT = {SHORT}
import os, signal, sys
from pathlib import Path
from gapmllm.run.evaluate import Options, evaluate
from gapmllm.run.parts import Parts

def add(self, clip, records):
    whole(self, clip, records)
    print(clip)
    if os.environ.get("KILLED") and self.path.read_bytes().count(b"\\n") == 2:
        os.kill(os.getpid(), signal.SIGKILL)

whole, Parts.add = Parts.add, add
evaluate(Options(model="debug", data=sys.argv[1], out=Path(sys.argv[2]), **SHORT))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight clips of two scenes: points, detection, grounding, captioning."""
    return written(tmp_path_factory.mktemp("data") / "boards", scene_of("b"), scene_of("a"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """No Java, which METEOR takes seconds for; one thread, as in the other processes: sums keep their order."""
    monkeypatch.setattr("gapmllm.evaluation.captions.shutil.which", lambda name: None)
    monkeypatch.setattr("gapmllm.evaluation.report.DRAWS", 5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Stop(Exception):
    """Ends a run in the middle, as Ctrl-C does."""


@pytest.fixture
def talk(monkeypatch):
    """talk(stop): the model is left out; answers follow from the question; call number `stop` never ends."""

    def use(stop=None):
        class Talks:
            def __init__(self, model, who, decoding, *, constrained):
                self.who = who

            def __call__(self, asks):
                calls.append(len(asks))
                if len(calls) - 1 == stop:
                    raise Stop
                return [[self.say(question) for question in ask.questions] for ask in asks]

            def say(self, question):
                return Said('{"frame": 1}' if question.task == "frame" else f"{self.who}: {question.prompt}")

        calls = []
        monkeypatch.setattr(module, "ModelAnswers", Talks)
        monkeypatch.setattr(module, "load", lambda name, **values: SimpleNamespace(config=SimpleNamespace()))
        return calls

    return use


def options(data, out, **values):
    return Options(**{"model": "debug", "data": data, "out": out, "decoding": "free", "max_tokens": 8, **values})


def files(out: Path) -> dict[str, bytes]:
    """All that must not depend on how a run went."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.json*"))}


@pytest.mark.parametrize(("batch", "times"), [(1, 20), (8, 10)])
def test_stopped_anywhere_it_goes_on_and_ends_the_same(data, tmp_path, talk, batch, times):
    calls, values = talk(), {"baselines": ("blind",), "batch": batch}
    evaluate(options(data, tmp_path / "whole", **values))
    expected, number = files(tmp_path / "whole"), len(calls)
    # two subjects, two scenes, one by one or together: points, detection, captioning, and two for grounding
    assert number == times
    assert {"model/points.jsonl", "blind/caption.jsonl", "scores.json", "run.json"} < expected.keys()
    for stop in range(number):
        out = tmp_path / str(stop)
        talk(stop)
        with pytest.raises(Stop):
            evaluate(options(data, out, **values))
        assert not any(path.exists() for path in out.glob("*/*.jsonl") if path.parent.name != PARTS)
        with max((out / PARTS).glob("*.jsonl"), default=out / PARTS / "model-0.jsonl").open("ab") as file:
            file.write(b'{"clip": "points/0/0", "rec')  # a line that was being written
        again = talk()
        evaluate(options(data, out, **values))
        assert 0 < len(again) <= number - stop + 1  # both steps of grounding are one unit
        assert files(out) == expected
        assert not (out / PARTS).exists()


def test_what_is_done_is_shown_and_not_asked_again(data, tmp_path, talk, monkeypatch):
    talk()
    first = evaluate(options(data, tmp_path))
    before = files(tmp_path)
    monkeypatch.setattr(module, "load", lambda *args, **values: pytest.fail("the model is not needed"))
    again = evaluate(options(data, tmp_path))
    assert (first.was_done, again.was_done) == (False, True)
    assert again.scores == first.scores
    assert files(tmp_path) == before


def test_tasks_and_baselines_can_be_added(data, tmp_path, talk):
    talk()
    evaluate(options(data, tmp_path / "whole", baselines=("blind",)))
    evaluate(options(data, tmp_path / "out", tasks=("points",)))
    points = (tmp_path / "out" / "model" / "points.jsonl").read_bytes()
    calls = talk()
    evaluate(options(data, tmp_path / "out", baselines=("blind",)))
    assert len(calls) == 9  # all but the model's points
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert (tmp_path / "out" / "model" / "points.jsonl").read_bytes() == points


def test_another_evaluation_is_refused_the_folder(data, tmp_path, talk):
    talk()
    evaluate(options(data, tmp_path / "out", limit=1))
    with pytest.raises(
        ValueError, match=r"(?s)belongs to another evaluation\n  limit: 1 there, None now\n.*--overwrite"
    ):
        evaluate(options(data, tmp_path / "out"))
    evaluate(options(data, tmp_path / "out", overwrite=True))
    lines = (tmp_path / "out" / "model" / "points.jsonl").read_text().splitlines()
    assert {json.loads(line)["scene"] for line in lines} == {"a", "b"}
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "thesis.tex").write_text("...")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"mine holds other files \(model, thesis.tex\): choose a folder"):
            evaluate(options(data, tmp_path / "mine", overwrite=overwrite))
    assert {path.name for path in (tmp_path / "mine").iterdir()} >= {"model", "thesis.tex"}
    (tmp_path / "out" / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run.json cannot be read: give --overwrite"):
        evaluate(options(data, tmp_path / "out"))


def test_two_runs_do_not_share_a_folder(data, tmp_path, talk):
    talk()
    taken = pytest.raises(ValueError, match="another process evaluates into")
    with module.claimed(tmp_path, overwrite=False), taken:
        evaluate(options(data, tmp_path))


def test_a_damaged_part_is_named(tmp_path):
    Parts(tmp_path, "model").add("points/0/0", [])
    path = tmp_path / PARTS / "model-0.jsonl"
    path.write_bytes(b"\0\0\0\n" + path.read_bytes())
    with pytest.raises(ValueError, match=r"model-0.jsonl:1 is damaged: delete this file"):
        Parts(tmp_path, "model")


# ---- real processes


def start(data, out, **environment) -> subprocess.Popen:
    arguments = [sys.executable, "-c", COMMAND, data, str(out)]
    both = {"OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]} | environment
    return subprocess.Popen(arguments, env=os.environ | both, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("undisturbed")
    evaluate(options(data, out, **SHORT))
    torch.set_num_threads(threads)
    return files(out)


def records(found):
    return {name: text for name, text in found.items() if name.endswith(".jsonl")}


def test_killed_and_started_again_it_gives_the_same_files(data, tmp_path, undisturbed):
    process = start(data, tmp_path / "out", KILLED="1")
    output, _ = process.communicate(timeout=200)
    assert process.returncode == -signal.SIGKILL, output.decode()
    assert (tmp_path / "out" / PARTS / "model-0.jsonl").read_bytes().count(b"\n") == 2  # of four
    assert not (tmp_path / "out" / "model").exists()
    evaluate(options(data, tmp_path / "out", **SHORT))
    assert records(files(tmp_path / "out")) == records(undisturbed)


def test_two_processes_give_the_same_files(data, tmp_path, undisturbed):
    port = str(free_port())
    both = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    both |= {"ACCELERATE_USE_CPU": "true"}
    processes = [start(data, tmp_path / "out", RANK=str(rank), LOCAL_RANK=str(rank), **both) for rank in range(2)]
    outputs = [process.communicate(timeout=200)[0].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    answered = [[line for line in output.splitlines() if line.startswith(SHORT["tasks"])] for output in outputs]
    assert [len(clips) for clips in answered] == [2, 2]
    assert len({*answered[0], *answered[1]}) == 4
    assert records(files(tmp_path / "out")) == records(undisturbed)
