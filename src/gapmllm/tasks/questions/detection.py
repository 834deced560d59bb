"""Detection questions: windows of frames about a second apart, and every object that is seen in any of them."""

from __future__ import annotations

from math import atan2

from gapmllm.scenes.records import Clip, Question, Scene
from gapmllm.tasks import DETECTION, DetectedObject, DetectionAnswer
from gapmllm.tasks.questions.plan import QuestionPlan, asked_objects, boxes_in_camera, in_view, windows


def detection_clips(scene: Scene, plan: QuestionPlan) -> list[Clip]:
    """One clip a window; walls, floors and ceilings are no objects. Windows without any object are left out.

    Objects stand from left to right, by the direction of their centres in the first frame: an order that can be seen,
    and in which each is found beside the one before it.
    """
    return [
        Clip(id=f"detection-{number}", frames=indices, questions=(question,))
        for number, indices in enumerate(windows(scene, plan))
        if (question := _question(scene, indices, f"detection-{number}-0", plan)) is not None
    ]


def _question(scene: Scene, indices: tuple[int, ...], question_id: str, plan: QuestionPlan) -> Question | None:
    seen = {key for index in indices for key in in_view(scene.frames[index], plan)}
    objects = [item for key, item in asked_objects(scene).items() if key in seen]
    if not objects:
        return None
    boxes = boxes_in_camera(objects, scene.frames[indices[0]])
    order = sorted(objects, key=lambda item: atan2(boxes[item.id][0], boxes[item.id][2]))  # x right, z ahead
    truth = [{"label": item.label, "bbox_3d": boxes[item.id]} for item in order]
    return Question(
        task="detection",
        prompt=DETECTION.prompt(),
        answer=DETECTION.write(DetectionAnswer(tuple(DetectedObject.model_validate(entry) for entry in truth))),
        target={"objects": truth},
        id=question_id,
    )
