"""Questions from texts about objects: grounding, step 1 (which frame) and step 2 (the box), and captioning."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np

from gapmllm.geometry import invert_pose, iou_matrix, transform_points
from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Clip, Expression, Question, Scene, SceneObject, boxes_of, evenly
from gapmllm.tasks import CAPTIONING, FRAME, GROUNDING, Caption, FrameAnswer
from gapmllm.tasks.grounding import GroundingAnswer
from gapmllm.tasks.questions.plan import QuestionPlan, asked_objects, boxes_in_camera, in_view

_AS_GOOD = 0.5  # a frame that shows at least this share of what the best frame shows is right, too


def grounding_clips(scene: Scene, plan: QuestionPlan, rng: np.random.Generator, problems: Problems) -> list[Clip]:
    """Step 1: one clip with all the texts of the scene; step 2: one clip for each chosen frame and its neighbours.

    The best frame is the canonical one in which the object covers the largest share of the image. An object that no
    canonical frame shows cannot be asked for: its texts are reported.
    """
    canonical = evenly(len(scene.frames), plan.canonical_frames)
    views = [in_view(scene.frames[index], plan) for index in canonical]
    known, alone = asked_objects(scene), _labels_described(scene)
    texts = _for_grounding(scene, known)
    if plan.texts is not None and len(texts) > plan.texts:
        texts = [texts[index] for index in sorted(rng.choice(len(texts), plan.texts, replace=False))]
    _report_unseen([known[key] for key in dict.fromkeys(text.object_id for text in texts)], views, problems)
    frames: list[Question] = []
    boxes: dict[int, list[Question]] = {}

    @cache
    def measured(chosen: int) -> dict[int, list[float]]:  # many texts are about one object
        return boxes_in_camera(known.values(), scene.frames[chosen])

    for text in texts:
        item = known[text.object_id]
        shares = [view.get(item.id, 0.0) for view in views]
        if max(shares) == 0:
            continue
        best = int(np.argmax(shares))
        right = [position for position, share in enumerate(shares) if share >= _AS_GOOD * shares[best]]
        common = {
            "object_id": item.id,
            "label": item.label,
            "group": "unique" if alone[item.label] == 1 else "multiple",
            "view_dependent": text.view_dependent,
        }
        frames.append(
            Question(
                task="frame",
                prompt=FRAME.prompt(text.text, len(canonical)),
                answer=FRAME.write(FrameAnswer(frame=best)),
                target={"frame": best, "frames": right, **common},
                id=f"frame-{text.id}",
            )
        )
        box = measured(canonical[best])[item.id]
        boxes.setdefault(canonical[best], []).append(_box_question(box, text, common))
    clips = [Clip(id="frame", frames=tuple(canonical), questions=tuple(frames))] if frames else []
    clips = clips if "frame" in plan.tasks else []
    if "grounding" in plan.tasks:
        for chosen, questions in sorted(boxes.items()):
            indices = neighbourhood(chosen, len(scene.frames), plan.neighbours)
            clips.append(Clip(id=f"grounding-{chosen}", frames=indices, questions=tuple(questions)))
    return clips


def neighbourhood(chosen: int, count: int, neighbours: int) -> tuple[int, ...]:
    """The chosen frame first, then the frames after it, then those before it, nearest first (paper, stage 2)."""
    after = range(chosen + 1, min(count, chosen + neighbours + 1))
    before = range(chosen - 1, max(-1, chosen - neighbours - 1), -1)
    return (chosen, *after, *before)


def caption_clips(scene: Scene, plan: QuestionPlan, rng: np.random.Generator, problems: Problems) -> list[Clip]:
    """One clip over the canonical frames, one question for each object that has references and is in view.

    The answer is one of the references, drawn anew for each object; all of them are in the target. The point is the
    centre of the true box; in val and test scenes with proposals, that of the proposal that overlaps it most, with
    their IoU in the target (Scan2Cap's protocol).
    """
    canonical = evenly(len(scene.frames), plan.canonical_frames)
    views = [in_view(scene.frames[index], plan) for index in canonical]
    to_camera = invert_pose(scene.frames[canonical[0]].camera_to_world)
    described = {
        item.id: references for item in asked_objects(scene).values() if (references := _references(scene, item))
    }
    _report_unseen([item for item in scene.objects if item.id in described], views, problems)
    questions = []
    for item in scene.objects:
        if item.id not in described or not any(item.id in view for view in views):
            continue
        references = described[item.id]
        center, iou = _asked_center(scene, item)
        point = transform_points(center, to_camera).tolist()
        questions.append(
            Question(
                task="captioning",
                prompt=CAPTIONING.prompt(point),
                answer=CAPTIONING.write(Caption(references[int(rng.integers(len(references)))])),
                target={
                    "references": references,
                    "point": point,
                    "object_id": item.id,
                    "label": item.label,
                    "iou": iou,
                },
                id=f"captioning-{item.id}",
            )
        )
    return [Clip(id="captioning", frames=tuple(canonical), questions=tuple(questions))] if questions else []


def _asked_center(scene: Scene, item: SceneObject) -> tuple[FloatArray, float]:
    """Centre (3,) of the box that is asked about, in the world, and its IoU with the true box."""
    if scene.split == "train" or scene.proposals is None or not len(scene.proposals):
        return item.center, 1.0
    overlaps = iou_matrix(boxes_of([item]), scene.proposals)[0]
    best = int(overlaps.argmax())
    return scene.proposals.centers[best], float(overlaps[best])


def _report_unseen(items: list[SceneObject], views: list[dict[int, float]], problems: Problems) -> None:
    """Note the objects, once each, that texts describe and no frame shows."""
    noted = {problem.file for problem in problems.found if problem.kind == "never in view"}
    for item in items:
        place = f"object {item.id}"
        if place not in noted and not any(item.id in view for view in views):
            problems.add("never in view", place, f"no frame shows this {item.label}; its texts are not asked for")


def _box_question(box: list[float], text: Expression, common: dict[str, object]) -> Question:
    return Question(
        task="grounding",
        prompt=GROUNDING.prompt(text.text),
        answer=GROUNDING.write(GroundingAnswer.model_validate({"bbox_3d": box})),
        target={"bbox_3d": box, **common},
        id=f"grounding-{text.id}",
    )


def _for_grounding(scene: Scene, known: dict[int, SceneObject]) -> list[Expression]:
    """Texts that single an object out: said to be unique, or, where nothing is said, not written as captions."""
    return [
        text
        for text in scene.expressions
        if text.object_id in known and (text.unique or (text.unique is None and text.kind != "caption"))
    ]


def _labels_described(scene: Scene) -> Counter[str]:
    """How many objects of each label are described: ScanRefer's "unique" counts these, not all that are there.

    By the labels of the scene. ScanRefer first maps its raw names to 18 classes, so its own groups are larger.
    """
    labels = {item.id: item.label for item in scene.objects}
    return Counter(labels[key] for key in {text.object_id for text in scene.expressions})


def _references(scene: Scene, item: SceneObject) -> list[str]:
    """Texts for captioning: those written as captions, else (ScanRefer) all that describe the object."""
    texts = [text for text in scene.expressions if text.object_id == item.id]
    captions = [text for text in texts if text.kind == "caption"]
    return [text.text for text in captions or texts]
