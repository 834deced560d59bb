"""The small tokenizer of the presets `debug` and `nano`, trained on the texts of procedural rooms.

The shipped files, `model/shipped/tokenizer`, are the output of

    gapmllm data tokenizer --out src/gapmllm/model/shipped/tokenizer

which is `--rooms 64 --vocab 1024`. The same command gives the same bytes.

Byte-level pairs: every text can be written, and comes back exactly. A number is its signs and digits, one token each
(`-0.42` = `-` `0` `.` `4` `2`), and a line break is always a token of its own. Merges stay within words, so that an
expression is made of words; what the package's own prompts and answers say again and again is one token each
(`fixed_parts`), so that a question costs little more than what is asked.

Mean tokens of prompt + answer, in rooms of split val that were not trained on (the command prints them):

    vocab   points       detection     frame        grounding     captioning    looking
    512     13.0 + 20.1  3.0 + 443.8   27.7 + 3.0   23.7 + 47.9   17.0 + 24.3   10.0 + 8.7
    640      9.6 + 19.6  3.0 + 441.2   24.9 + 3.0   20.9 + 47.9   17.0 + 21.5    7.7 + 8.5
    768      8.0 + 19.1  3.0 + 432.8   24.3 + 3.0   20.3 + 47.9   17.0 + 21.0    6.7 + 7.4
    987      8.0 + 19.1  3.0 + 430.8   24.3 + 3.0   20.3 + 47.9   17.0 + 21.0    6.7 + 7.4

At 987 every word of the rooms is one token: a larger `--vocab` gives the same. Without the fixed parts a grounding
prompt takes about 117 tokens. At width 256 the embedding has 0.25 M parameters.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as InTurn
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from gapmllm.model.tokenizer import END, PAD, SPECIAL_TOKENS, SYSTEM
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Question
from gapmllm.scenes.synth.scene import SynthOptions, labels, make_scene
from gapmllm.tasks import (
    CAPTIONING,
    DETECTION,
    FRAME,
    GROUNDING,
    LOOK,
    POINTS,
    DetectedObject,
    DetectionAnswer,
    FrameAnswer,
    GroundingAnswer,
    LookingAnswer,
    PointAnswer,
)
from gapmllm.tasks.questions import QuestionPlan, make_clips
from gapmllm.tasks.questions.looking import looking_questions

# Line break; digit; the comma and the minus of numbers; word; punctuation; white space.
PIECES = r"\n|\p{N}|, (?=-?\p{N})|-(?=\p{N})| ?\p{L}+| ?[^\s\p{L}\p{N}]+|[^\S\n]+"
MIN_PART = 8
"""Shorter fixed parts are left to the merges: taken out of any text, they would cut words."""
_HOLE = "\ue000"  # of the private use area: in no prompt
_VARIES = re.compile(rf"{_HOLE}|\n|-?\b\d[\d.]*\b")  # "bbox_3d" and "3D" hold no number
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen's chat format for users of transformers; a frame is one slot, which a processor repeats."""


def room_texts(number: int, split: str = "train") -> tuple[list[str], list[Question]]:
    """The descriptions of the room with this number, and all kinds of questions about it, from few small frames."""
    scene = make_scene(number, SynthOptions(split=split, frames=4, width=64, height=48))
    clips = make_clips(scene, QuestionPlan(), Problems(scene.id))
    questions = [question for clip in clips for question in clip.questions]
    rng = np.random.default_rng(number)
    for clip in clips:
        if clip.questions[0].task == POINTS.name:
            questions += looking_questions(clip, scene.clip_frames(clip), rng)
    return [text.text for text in scene.expressions], questions


def fixed_parts() -> list[str]:
    """What every prompt and answer of a task says, between line breaks, numbers, labels and descriptions."""
    box, point = (0.0,) * 9, (0.0,) * 3
    texts = [
        *(POINTS.prompt(0, _HOLE), POINTS.prompt(0, _HOLE, label=False), POINTS.prompt(0, _HOLE, point=False)),
        *(DETECTION.prompt(names) for names in ((), (_HOLE,))),
        FRAME.prompt(_HOLE, 0),
        GROUNDING.prompt(_HOLE),
        GROUNDING.one_step_prompt(_HOLE, 0),
        CAPTIONING.prompt(point),
        *(LOOK.label_prompt(_HOLE), LOOK.color_prompt(_HOLE, 0), LOOK.place_prompt(_HOLE)),
        *(LOOK.count_prompt(frame) for frame in (None, 0)),
        *(POINTS.write(PointAnswer(label=_HOLE, pointmap=where)) for where in (point, None)),
        POINTS.write(PointAnswer(pointmap=point)),
        DETECTION.write(DetectionAnswer((DetectedObject(label=_HOLE, bbox_3d=box),) * 2)),
        FRAME.write(FrameAnswer(frame=0)),
        *(GROUNDING.write(GroundingAnswer(frame=frame, bbox_3d=box)) for frame in (None, 0)),
        LOOK.write(LookingAnswer(color="red")).replace("red", _HOLE),
        *(LOOK.write(answer) for answer in (LookingAnswer(frame=0, pixel=(0, 0)), LookingAnswer(count=0))),
    ]
    return sorted({part for text in texts for part in _VARIES.split(text) if len(part) >= MIN_PART})


def train_tokenizer(texts: Iterable[str], vocab: int) -> PreTrainedTokenizerFast:
    """vocab: tokens in all, at most: where every word is one token, there is nothing more to merge.

    Ids: special tokens, bytes, merges, fixed parts. ValueError if vocab has no room for all but the merges.
    """
    parts, alphabet = fixed_parts(), sorted(ByteLevel.alphabet())
    least = len(SPECIAL_TOKENS) + len(alphabet) + len(parts)
    if vocab < least:
        raise ValueError(f"vocab {vocab}: special tokens, bytes and fixed parts alone are {least}; give more")
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = InTurn(
        [Split(Regex(PIECES), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocab - len(parts),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    # Merges learn from what the fixed parts leave: "red" of "a red cross" stands without its space.
    cut = re.compile("|".join(re.escape(part) for part in sorted(parts, key=len, reverse=True)))
    always = [f"system\n{SYSTEM}", "user\n", "assistant\n", *sorted(labels()), *parts]
    tokenizer.train_from_iterator(itertools.chain(always, *map(cut.split, texts)), trainer)
    tokenizer.add_tokens([AddedToken(part, normalized=False) for part in parts])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[name for name in SPECIAL_TOKENS if name not in (PAD, END)],
        chat_template=CHAT_TEMPLATE,
    )


def tokens_per_task(tokenizer: PreTrainedTokenizerFast, questions: Iterable[Question]) -> list[dict[str, str | float]]:
    """Mean tokens of prompt and answer, a row for each task."""
    lengths: dict[str, list[tuple[int, int]]] = {}
    for question in questions:
        sizes = (len(tokenizer.tokenize(question.prompt)), len(tokenizer.tokenize(question.answer)))
        lengths.setdefault(question.task, []).append(sizes)
    return [
        {
            "task": task,
            "prompt tokens": sum(prompt for prompt, _ in sizes) / len(sizes),
            "answer tokens": sum(answer for _, answer in sizes) / len(sizes),
        }
        for task, sizes in lengths.items()
    ]
