"""Detection questions: windows of frames about a second apart, and every object that is seen in any of them."""

from __future__ import annotations

from gapmllm.scenes.records import Clip, Question, Scene
from gapmllm.tasks import DETECTION, DetectedObject, DetectionAnswer
from gapmllm.tasks.questions.plan import QuestionPlan, asked_objects, boxes_in_camera, in_view, windows


def detection_clips(scene: Scene, plan: QuestionPlan) -> list[Clip]:
    """One clip a window; walls, floors and ceilings are no objects. Windows without any object are left out.

    Objects stand in the order of their first frame, the largest in it first: an order that can be seen.
    """
    return [
        Clip(id=f"detection-{number}", frames=indices, questions=(question,))
        for number, indices in enumerate(windows(scene, plan))
        if (question := _question(scene, indices, f"detection-{number}-0", plan)) is not None
    ]


def _question(scene: Scene, indices: tuple[int, ...], question_id: str, plan: QuestionPlan) -> Question | None:
    known = asked_objects(scene)
    seen: dict[int, None] = {}
    for index in indices:
        shares = in_view(scene.frames[index], plan)
        seen.update(dict.fromkeys(sorted(shares, key=lambda key: (-shares[key], key))))
    objects = [known[key] for key in seen if key in known]
    if not objects:
        return None
    boxes = boxes_in_camera(objects, scene.frames[indices[0]])
    truth = [{"label": item.label, "bbox_3d": box} for item, box in zip(objects, boxes, strict=True)]
    return Question(
        task="detection",
        prompt=DETECTION.prompt(),
        answer=DETECTION.write(DetectionAnswer(tuple(DetectedObject.model_validate(entry) for entry in truth))),
        target={"objects": truth},
        id=question_id,
    )
