"""How sure a model is of an answer: a score between 0 and 1 from the probabilities of its tokens.

    score = exp(mean(log p_t) / T)

over those tokens t of the answer where the form left a choice (`Decoded.free`); p_t is the probability of the token
among those that were allowed. So the score is a geometric mean: long labels count no more than short ones, and brackets
count nothing. An object of a list has the tokens from the end of the object before it to its own end: the choice to go
on, its label, its numbers. A grounding in two steps has the tokens of both answers.

T is the temperature of the task (`GapMllmConfig.score_temperatures`, 1 where it was not fitted): `gapmllm eval
--calibrate` fits it on held-out answers, so that of the answers with score 0.7 about 70 % are right.
"""

from __future__ import annotations

from math import exp, inf

from gapmllm.infer.constraint import wrapped
from gapmllm.infer.decoding import Decoded
from gapmllm.infer.forms import Form, complete_objects
from gapmllm.model import GapMllm


def scores_of(decoded: Decoded, form: Form | None, model: GapMllm) -> list[float]:
    """One score for the answer; of a list one for each object, in the order written.

    A free answer (form None) has one score, at temperature 1.
    """
    if form is None or not form.is_list:
        return [score([decoded], form.task.name if form else "", model)]
    tokenizer = wrapped(model)
    ends = [end for _, _, end in complete_objects(decoded.text)]
    parts: list[list[float]] = [[] for _ in ends]
    written, current = 0, 0
    for token, logprob, free in zip(decoded.ids, decoded.logprobs, decoded.free, strict=True):
        if current == len(ends):
            break
        if free:
            parts[current].append(logprob)
        written += len(tokenizer.decode_bytes([token]))
        while current < len(ends) and written >= len(decoded.text[: ends[current]].encode()):
            current += 1
    return [_score(part, _temperature(form.task.name, model)) for part in parts]


def score(answers: list[Decoded], task: str, model: GapMllm) -> float:
    """One score for answers that together are one."""
    free = [
        logprob
        for answer in answers
        for logprob, was_free in zip(answer.logprobs, answer.free, strict=True)
        if was_free
    ]
    return _score(free, _temperature(task, model))


def _temperature(task: str, model: GapMllm) -> float:
    return (model.config.score_temperatures or {}).get(task, 1.0)


def _score(logprobs: list[float], temperature: float) -> float:
    mean = sum(logprobs) / len(logprobs) if logprobs else 0.0
    return exp(mean / temperature) if mean > -inf else 0.0
