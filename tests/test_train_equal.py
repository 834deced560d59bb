"""What must not change the loss: packing, and how the clips of a step are dealt out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_runs import let_questions_see_each_other

from gapmllm.model import build
from gapmllm.train.batch import Batch
from gapmllm.train.loading import Shares
from gapmllm.train.loop import train
from gapmllm.train.metrics import FILE, read_rows
from gapmllm.train.packing import pack
from gapmllm.train.parallel import accelerator_for
from gapmllm.train.recipe import recipe_of
from gapmllm.train.stages import Stage, StepOutput
from gapmllm.train.tally import Tally


def recipe(out: Path, **values):
    rooms = {"count": 3, "frames": 4, "width": 64, "height": 48}
    data = {"frames": 2, "marks": 3, "questions": 3, "sources": [{"rooms": rooms, "tasks": {"points": 2, "frame": 1}}]}
    data |= {"canonical_frames": 4, "clips_per_scene": 2}
    usual = {"stage": "align", "init": "new debug", "steps": 4, "batch": 4, "lr": 1e-3, "workers": 0, "evaluate": None}
    return recipe_of(usual | {"data": data, "out": str(out)} | values, "test")


def curve(out: Path, **values) -> list[dict]:
    """The log of a run."""
    assert train(recipe(out, **values))
    return list(read_rows(out / FILE))


def test_packed_training_equals_a_question_for_each_row(tmp_path):
    packed = curve(tmp_path / "packed", steps=50, batch=2)
    alone = curve(tmp_path / "alone", steps=50, batch=2, packing=False)
    assert len(packed) == len(alone) == 50
    for ours, theirs in zip(packed, alone, strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], abs=1e-4)
        assert theirs["tasks"] == pytest.approx(ours["tasks"], abs=1e-4)
        assert theirs["questions"] == ours["questions"]
        assert theirs["tokens"] > ours["tokens"]  # the frames come again for each question
    assert packed[-1]["loss"] < 0.8 * packed[0]["loss"]


def test_packed_questions_that_see_each_other_would_be_noticed(tmp_path, monkeypatch):
    alone = curve(tmp_path / "alone", packing=False)

    let_questions_see_each_other(monkeypatch)
    packed = curve(tmp_path / "packed")
    assert any(abs(ours["loss"] - theirs["loss"]) > 1e-3 for ours, theirs in zip(packed, alone, strict=True))


def apart(ours: list[dict], theirs: list[dict], key: str) -> float:
    """The largest difference in a column, as a share."""
    return max(abs(a[key] - b[key]) / a[key] for a, b in zip(ours, theirs, strict=True))


def test_accumulation_changes_nothing(tmp_path, monkeypatch):
    at_once = curve(tmp_path / "at-once")
    in_turn = curve(tmp_path / "in-turn", micro_batch=1)
    for key in ("loss", "gradient"):
        assert apart(at_once, in_turn, key) < 1e-5
    # Each clip's loss as the mean over its own tokens, and the mean of these: clips with short answers weigh more.
    forward = Stage.forward
    monkeypatch.setattr(
        Stage,
        "forward",
        lambda stage, batch, _: forward(stage, batch, {name: 4 * count for name, count in batch.counts.items()}),
    )
    mean_of_means = curve(tmp_path / "mean-of-means", micro_batch=1)
    assert apart(at_once, mean_of_means, "gradient") > 1e-2


def test_the_log_has_means_over_tokens_for_each_task(clip_of):
    model = build("debug")
    clip = clip_of(model)
    packed = pack([(clip, [("where?", "a")]), (clip, [("what?", "a b"), ("who?", "c")])], model.prompts)
    lengths = [len(model.prompts.answer(text)) for text in ("a", "a b", "c")]
    short, count = lengths[0], sum(lengths)
    batch = Batch(
        clips=packed.clips,
        pack=packed,
        rows=(0, 1),
        targets=({}, {}),
        counts={"answers": count},
        tasks=("points", "frame"),
        names=("one", "other"),
        questions=3,
    )
    losses = torch.arange(count, dtype=torch.float32)
    tally = Tally({"answers": 0.5}, ("captioning", "frame", "points"))
    with accelerator_for(recipe(Path("unused"))) as accelerator:
        for _ in range(2):  # two micro-batches
            tally.add(batch, StepOutput(losses.sum(), {"answers": losses.sum()}, losses))
        result = tally.result({"answers": 2 * count}, accelerator)
    # 0 + 1 + … + (n - 1) over n is (n - 1) / 2; a task without clips is left out.
    assert result.losses == {"answers": (count - 1) / 2}
    assert result.loss == (count - 1) / 4
    assert result.tasks == {"points": (short - 1) / 2, "frame": (short + count - 1) / 2}
    assert (result.questions, result.frames) == (6, 2 * 2 * clip.num_frames)
    assert result.tokens == 2 * int((packed.segments >= 0).sum())


def test_processes_take_the_clips_of_a_step_in_order():
    run = recipe(Path("unused"), batch=8, micro_batch=2)
    first, second = (Shares.of(run, processes=2, rank=rank) for rank in (0, 1))
    assert first.accumulation == second.accumulation == 2
    assert list(first.indices(3)) == [[24, 25], [26, 27]]
    assert list(second.indices(3)) == [[28, 29], [30, 31]]
    whole = Shares.of(recipe(Path("unused"), batch=8), processes=1, rank=0)
    assert list(whole.indices(3)) == [list(range(24, 32))]


@pytest.mark.parametrize(
    ("values", "processes", "message"),
    [
        ({"batch": 8}, 3, "batch 8 cannot be dealt out to 3 processes: make it a multiple of 3"),
        (
            {"batch": 8, "micro_batch": 3},
            2,
            r"gets 4 clips of a step \(batch 8, 2 processes\): micro_batch must divide",
        ),
    ],
)
def test_a_batch_that_cannot_be_dealt_out_is_refused(values, processes, message):
    with pytest.raises(ValueError, match=message):
        Shares.of(recipe(Path("unused"), **values), processes, 0)
