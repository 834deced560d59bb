"""The small tokenizer and the chat format: text comes back exactly, and never becomes a special token."""

from __future__ import annotations

import json
import shutil
import sys

import llguidance.hf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer

from gapmllm.cli.main import main
from gapmllm.model.presets import TOKENIZER
from gapmllm.model.tokenizer import SPECIAL_TOKENS, Prompts, encode_text, load_tokenizer
from gapmllm.scenes.synth.scene import labels
from gapmllm.tasks import COLORS, DETECTION, FRAME, GROUNDING, LOOK, POINTS, LookingAnswer, PointAnswer
from gapmllm.tasks.detection import DetectedObject, DetectionAnswer
from gapmllm.tasks.frame import FrameAnswer
from gapmllm.tasks.grounding import GroundingAnswer
from gapmllm.train.tokenizer import fixed_parts, train_tokenizer

OURS = load_tokenizer(TOKENIZER)
LETTERS = {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}
QWEN = Qwen2Tokenizer(
    vocab=LETTERS | {"us": 256, "er": 257, "user": 258, '{"': 259, "ĊĊ": 260},
    merges=[("u", "s"), ("e", "r"), ("us", "er"), ("{", '"'), ("Ċ", "Ċ")],
    additional_special_tokens=list(SPECIAL_TOKENS),
)
BOTH = pytest.mark.parametrize("tokenizer", [OURS, QWEN], ids=["ours", "qwen"])
NAMES = st.sampled_from([*SPECIAL_TOKENS, "<|im_start", "|>", "\n", "-0.42", '{"label": "'])
TEXTS = st.lists(st.text() | NAMES).map("".join)
BOX = (-0.42, 0.31, 12.35, 0.55, 0.6, 0.92, 0.79, -1.17, 2.96)


def special_ids(tokenizer):
    return set(tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)))


def tokens(text):
    """The text's tokens, as texts."""
    return [OURS.decode([number]) for number in encode_text(OURS, text)]


@given(TEXTS)
def test_any_text_comes_back_exactly_and_holds_no_special_token(text):
    ids = encode_text(OURS, text)
    assert OURS.decode(ids) == text
    assert not special_ids(OURS) & set(ids)


@BOTH
@pytest.mark.parametrize("name", SPECIAL_TOKENS)
@pytest.mark.parametrize("text", ["{0}", "{0}{0}", "a {0}, {0} b", "{0} a", "a{0}", "\x00{0}\r\n{0}\x7f"])
def test_names_of_special_tokens_in_a_text_stay_text(tokenizer, name, text):
    text = text.format(name)
    ids = encode_text(tokenizer, text)
    assert not special_ids(tokenizer) & set(ids)
    assert tokenizer.decode(ids) == text
    # and the usual way of encoding, which users of transformers know, does make special tokens of them
    assert special_ids(tokenizer) & set(tokenizer.encode(text))


def test_numbers_are_read_digit_by_digit():
    assert tokens("-0.42") == ["-", "0", ".", "4", "2"]
    assert tokens("[12.50, -3.05]") == ["[", "1", "2", ".", "5", "0", ", ", "-", "3", ".", "0", "5", "]"]
    longer = {token for token in OURS.get_vocab() if len(token) > 1 and any(c in token for c in "0123456789")}
    assert longer == {part for part in fixed_parts() if "3D" in part or "bbox_3d" in part}  # names, not numbers
    assert not any(c in part.replace("3D", "").replace("bbox_3d", "") for part in longer for c in "0123456789")


def test_what_tasks_always_say_is_one_token_and_what_they_ask_is_words():
    assert all(len(encode_text(OURS, part)) == 1 for part in fixed_parts())
    assert tokens(POINTS.write(PointAnswer(label="chair", pointmap=(-0.42, 1, 2)))) == [
        *['{"label": "', "chair", '", "pointmap": [', "-", "0", ".", "4", "2", ", "],
        *["1", ".", "0", "0", ", ", "2", ".", "0", "0", "]}"],
    ]
    for prompt in (POINTS.prompt(1), POINTS.prompt(1, label=False), POINTS.prompt(1, point=False)):
        assert tokens(prompt)[:5] == ["Frame", " ", "1", " is marked with a ", "red"]
        assert len(tokens(prompt)) == 8  # cross and question, line break, keys of the answer
    color = tokens(LOOK.color_prompt("chair", 2))
    assert color[:6] == ["What color is the cross on the ", "chair", " in frame ", "2", "?", "\n"]
    assert len(color) == 7
    assert tokens(LOOK.write(LookingAnswer(frame=1, pixel=(0.42, 0.1)))) == [
        *['{"frame": ', "1", ', "pixel": [', "0", ".", "4", "2", ", ", "0", ".", "1", "0", "]}"],
    ]
    grounding = tokens(GROUNDING.prompt("the red chair nearest to the door"))
    assert grounding[:8] == ["Object: ", "the", " red", " chair", " nearest", " to", " the", " door"]
    assert (grounding[8:11], len(grounding)) == (["\n", "Find this object.", "\n"], 12)
    words = {word for label in labels() for word in label.split()}
    assert all(len(encode_text(OURS, word)) == 1 for word in {*words, *COLORS})
    assert len(encode_text(OURS, "xylophone")) > 1


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        (POINTS, PointAnswer(label="café table", pointmap=BOX[:3])),
        (FRAME, FrameAnswer(frame=31)),
        (GROUNDING, GroundingAnswer(bbox_3d=BOX)),
        (DETECTION, DetectionAnswer((DetectedObject(label="chair", bbox_3d=BOX),) * 2)),
    ],
)
def test_a_grammar_lets_every_token_of_an_answer_pass(task, answer):
    tokenizer = llguidance.hf.from_tokenizer(OURS)
    matcher = llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_lark(task.grammar()))
    ids = Prompts(OURS).answer(task.write(answer))
    assert matcher.validate_tokens(encode_text(OURS, "no JSON")) == 0
    assert matcher.validate_tokens([*ids[:-2], ids[-1]]) == len(ids) - 2  # it may not end before the last bracket
    assert matcher.consume_tokens(ids)
    assert matcher.is_stopped()


def whole(system, frames, question, answer):
    """The chat as one text."""
    slots = "".join("<|vision_start|>" + "<|image_pad|>" * count + "<|vision_end|>" for count in frames)
    opening = "" if system is None else f"<|im_start|>system\n{system}<|im_end|>\n"
    return f"{opening}<|im_start|>user\n{slots}{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>"


@BOTH
@pytest.mark.parametrize("system", ["You are a helpful assistant.", "In rhymes, please.\n", None])
@pytest.mark.parametrize("frames", [[1], [3, 3, 2], []])
def test_the_parts_of_a_chat_are_the_chat_encoded_at_once(tokenizer, system, frames):
    prompts = Prompts(tokenizer)
    prefix = prompts.prefix(frames, system=system)
    for question, answer in [(FRAME.prompt("the bed", 8), '{"frame": 7}'), ("Was für ein Bett?", "a  bed,\n\n30 cm\t")]:
        ids = prefix + prompts.question(question) + prompts.answer(answer)
        assert ids == tokenizer.encode(whole(system, frames, question, answer))
        assert ids.count(prompts.image_id) == sum(frames)
        assert ids[-1] == prompts.end_id
    assert prompts.prefix([2]) == prompts.prefix([2], system="You are a helpful assistant.")


@given(question=st.text().filter(str.strip), answer=st.text())
def test_our_parts_are_the_whole_whatever_is_written(question, answer):
    prompts = Prompts(OURS)
    ids = prompts.prefix([2]) + prompts.question(question) + prompts.answer(answer)
    assert ids == OURS.encode(whole("You are a helpful assistant.", [2], question, answer))


def test_names_of_special_tokens_in_a_chat_make_no_slots_and_end_nothing():
    prompts = Prompts(OURS)
    text = "<|im_end|><|image_pad|>"
    ids = prompts.prefix([2], system=text) + prompts.question(text) + prompts.answer(text)
    assert (ids.count(prompts.image_id), ids.count(prompts.end_id), ids.count(prompts.pad_id)) == (2, 3, 0)


def test_the_chat_template_writes_the_same_chat():
    image = {"type": "image"}
    chat = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": [image, image, {"type": "text", "text": "Where is the bed?"}]},
    ]
    prompts = Prompts(OURS)
    asked = prompts.prefix([1, 1]) + prompts.question("Where is the bed?")
    assert OURS.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] == asked
    answered = [*chat, {"role": "assistant", "content": "Here."}]
    ids = OURS.apply_chat_template(answered)["input_ids"]
    assert ids == asked + prompts.answer("Here.") + encode_text(OURS, "\n")


def test_a_question_of_100_kilobytes_is_encoded():
    text = "<|image_pad|> -0.5 the chair\n" * 3500
    assert OURS.decode(Prompts(OURS).question(text)).startswith(text + "<|im_end|>")


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_question_is_refused(text):
    with pytest.raises(ValueError, match="the question is empty"):
        Prompts(OURS).question(text)


@pytest.mark.parametrize("text", [None, b"a chair", 3, 0.5, ["a chair"], True])
def test_what_is_no_text_is_refused(text):
    prompts = Prompts(OURS)
    calls = [prompts.question, prompts.answer, lambda text: encode_text(OURS, text)]
    if text is not None:  # no system line
        calls.append(lambda text: prompts.prefix([2], system=text))
    for call in calls:
        with pytest.raises(ValueError, match=f"a text is needed, got {type(text).__name__}: "):
            call(text)


def test_a_text_that_is_not_unicode_is_refused():
    with pytest.raises(ValueError, match="the text is not Unicode: surrogates not allowed at character 2"):
        Prompts(OURS).answer("a \ud800")


def test_a_frame_without_tokens_is_refused():
    with pytest.raises(ValueError, match=r"every frame needs 1 visual token or more, got \[3, 0\]"):
        Prompts(OURS).prefix([3, 0])


def damage(folder, name, change):
    shutil.copytree(TOKENIZER, folder)
    path = folder / name
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


def test_a_folder_without_a_readable_tokenizer_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    damage(tmp_path / "cut", "tokenizer.json", lambda text: text[:1000])
    damage(tmp_path / "odd", "tokenizer.json", lambda text: text.replace('"BPE"', '"BPF"'))
    for name in ("empty", "cut", "odd", "not there"):
        with pytest.raises(ValueError, match=f"{name}: no tokenizer can be read from here"):
            load_tokenizer(tmp_path / name)


def test_the_hub_is_asked_only_by_who_says_download(monkeypatch):
    local = []
    monkeypatch.setattr(
        "gapmllm.model.tokenizer.AutoTokenizer.from_pretrained",
        lambda source, *, local_files_only: local.append((source, local_files_only)) or OURS,
    )
    load_tokenizer("some/model")
    load_tokenizer("some/model", download=True)
    assert local == [("some/model", True), ("some/model", False)]


def test_a_tokenizer_without_the_models_special_tokens_is_refused(tmp_path):
    def as_text(text):
        values = json.loads(text)
        values["added_tokens"] = [t for t in values["added_tokens"] if t["content"] != "<|image_pad|>"]
        return json.dumps(values)

    damage(tmp_path / "other", "tokenizer.json", as_text)
    config = tmp_path / "other" / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"<|image_pad|>",', ""))
    with pytest.raises(ValueError, match=r"other: this tokenizer has no special tokens <\|image_pad\|>\. The"):
        load_tokenizer(tmp_path / "other")


@pytest.fixture
def run(monkeypatch):
    """Runs `gapmllm data tokenizer arguments`; returns the exit status."""

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["gapmllm", "data", "tokenizer", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code

    return command


def test_the_command_gives_the_same_bytes_again(run, tmp_path, capsys):
    for name in ("one", "two"):
        assert run("--out", tmp_path / name, "--rooms", 1, "--vocab", 400) == 0
    printed = capsys.readouterr().out
    assert "400 tokens" in printed
    assert "grounding" in printed
    names = ["tokenizer.json", "tokenizer_config.json"]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == names
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
    assert len(load_tokenizer(tmp_path / "one")) == 400


@pytest.mark.parametrize("out", ["", "."])
def test_the_command_writes_into_no_folder_without_a_name(run, tmp_path, monkeypatch, capsys, out):
    monkeypatch.chdir(tmp_path)
    assert run("--out", out, "--rooms", 1, "--vocab", 400) == 2
    assert capsys.readouterr().err == "error: --out: the name of a folder was expected, got '' or '.'\n"
    assert not list(tmp_path.iterdir())


def test_a_vocabulary_without_room_for_merges_is_refused():
    least = 7 + 256 + len(fixed_parts())
    assert len(train_tokenizer(["a chair"] * 9, least)) == least
    with pytest.raises(ValueError, match=f"vocab {least - 1}: special tokens, bytes and fixed parts alone are {least}"):
        train_tokenizer([], least - 1)


def test_the_shipped_files_begin_as_the_command_writes_them():
    """Their ids are part of trained weights: special tokens first, then bytes, fixed parts last."""
    assert OURS.convert_ids_to_tokens(list(range(7))) == list(SPECIAL_TOKENS)
    parts = fixed_parts()
    assert OURS.convert_ids_to_tokens(list(range(len(OURS) - len(parts), len(OURS)))) == parts
    assert OURS.chat_template == train_tokenizer([], 1000).chat_template
