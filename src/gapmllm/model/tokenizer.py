"""Text to token ids, in the chat format of Qwen (ChatML): system line, frames, question, answer.

    <|im_start|>system
    You are a helpful assistant.<|im_end|>
    <|im_start|>user
    <|vision_start|><|image_pad|>…<|vision_end|>…Find this object. …<|im_end|>
    <|im_start|>assistant
    {"bbox_3d": [0.42, …]}<|im_end|>

Only this file writes special tokens. Text from outside never does: an "<|image_pad|>" in a question stays text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END, IMAGE, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
SPECIAL_TOKENS = (PAD, START, END, VISION_START, VISION_END, IMAGE, VIDEO)
"""The names that Qwen3-VL gives to the special tokens that a model here needs."""
SYSTEM = "You are a helpful assistant."
"""The system line that the released models were trained with."""


def load_tokenizer(source: str | Path, *, download: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder, or of a hub id: from the local cache, or with `download` from the hub.

    ValueError if there is none, it cannot be read, or it lacks a special token that the model needs.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=not download)
    except Exception as error:  # a damaged tokenizer.json raises Exception itself
        why, *_ = f"{type(error).__name__}: {error}".splitlines()
        raise ValueError(
            f"{source}: no tokenizer can be read from here ({why}). "
            "A folder with tokenizer.json and tokenizer_config.json is needed, or a hub id that is in the local cache "
            "or may be downloaded"
        ) from error
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    missing = [name for name in SPECIAL_TOKENS if name not in special]
    if missing:
        raise ValueError(
            f"{source}: this tokenizer has no special tokens {' '.join(missing)}. The tokenizer of a Qwen3-VL "
            "checkpoint is needed, or the one of the presets"
        )
    return tokenizer


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of ordinary text. The names of special tokens in it are text like any other; nothing is added.

    The small tokenizer gives every text back exactly, Qwen's its NFC form. ValueError for what is no text, and for
    lone surrogates.
    """
    try:
        _as_text(text).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the text is not Unicode: {error.reason} at character {error.start}") from error
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


def _as_text(text: str) -> str:
    if not isinstance(text, str):
        raise ValueError(f"a text is needed, got {type(text).__name__}: {text!r:.80}")
    return text


class Prompts:
    """Builds the token ids of prompts and answers, part by part: one prefix may have many questions.

    prefix + question + answer are the ids of the whole text, encoded at once. ValueError for what is no text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """tokenizer: with the special tokens of Qwen3-VL (`load_tokenizer`)."""
        self.tokenizer = tokenizer
        ids = tokenizer.get_vocab()
        self.pad_id, self.end_id, self.image_id = ids[PAD], ids[END], ids[IMAGE]
        self.braces = {number: token.count("{") for token, number in ids.items() if "{" in token}
        self._start, self._vision_start, self._vision_end = ids[START], ids[VISION_START], ids[VISION_END]

    def prefix(self, tokens_per_frame: Sequence[int], *, system: str | None = SYSTEM) -> list[int]:
        """Everything before the question: the system line (None: without) and the slots of each frame.

        tokens_per_frame: visual tokens of each frame, 1 or more.
        """
        if any(count < 1 for count in tokens_per_frame):
            raise ValueError(f"every frame needs 1 visual token or more, got {list(tokens_per_frame)}")
        ids = []
        if system is not None:
            ids += [self._start, *self._text(f"system\n{_as_text(system)}"), self.end_id, *self._text("\n")]
        ids += [self._start, *self._text("user\n")]
        for count in tokens_per_frame:
            ids += [self._vision_start, *[self.image_id] * count, self._vision_end]
        return ids

    def question(self, text: str) -> list[int]:
        """The question, up to where the answer begins. ValueError if there is nothing in it."""
        if not _as_text(text).strip():
            raise ValueError(f"the question is empty: {text!r}; ask something")
        return [*self._text(text), self.end_id, *self._text("\n"), self._start, *self._text("assistant\n")]

    def answer(self, text: str) -> list[int]:
        """The answer and the token that ends it: what a model learns to write."""
        return [*self._text(text), self.end_id]

    def text(self, ids: Sequence[int]) -> str:
        """Ids of an answer -> its text, without the token that ends it."""
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _text(self, text: str) -> list[int]:
        return encode_text(self.tokenizer, text)
