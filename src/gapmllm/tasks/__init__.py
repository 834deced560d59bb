"""The tasks: prompt, answer text, schema and readers of each, and the marks drawn into frames."""

from typing import Any

from gapmllm.tasks.answers import Answer as Answer
from gapmllm.tasks.answers import Box9 as Box9
from gapmllm.tasks.answers import Label as Label
from gapmllm.tasks.answers import Point3 as Point3
from gapmllm.tasks.answers import Reading as Reading
from gapmllm.tasks.answers import Task as Task
from gapmllm.tasks.captioning import CAPTIONING as CAPTIONING
from gapmllm.tasks.captioning import Caption as Caption
from gapmllm.tasks.detection import DETECTION as DETECTION
from gapmllm.tasks.detection import DetectedObject as DetectedObject
from gapmllm.tasks.detection import DetectionAnswer as DetectionAnswer
from gapmllm.tasks.frame import FRAME as FRAME
from gapmllm.tasks.frame import FrameAnswer as FrameAnswer
from gapmllm.tasks.grounding import GROUNDING as GROUNDING
from gapmllm.tasks.grounding import GroundingAnswer as GroundingAnswer
from gapmllm.tasks.looking import LOOK as LOOK
from gapmllm.tasks.looking import LOOKING as LOOKING
from gapmllm.tasks.looking import LookingAnswer as LookingAnswer
from gapmllm.tasks.marks import COLORS as COLORS
from gapmllm.tasks.marks import Mark as Mark
from gapmllm.tasks.marks import draw_marks as draw_marks
from gapmllm.tasks.points import POINTS as POINTS
from gapmllm.tasks.points import PointAnswer as PointAnswer
from gapmllm.tasks.results import Answers as Answers
from gapmllm.tasks.results import Description as Description
from gapmllm.tasks.results import Detection as Detection
from gapmllm.tasks.results import FreeAnswer as FreeAnswer
from gapmllm.tasks.results import Grounding as Grounding
from gapmllm.tasks.results import LabelledBox as LabelledBox
from gapmllm.tasks.results import LocatedPoint as LocatedPoint
from gapmllm.tasks.results import Truth as Truth
from gapmllm.tasks.results import WatchedFrame as WatchedFrame
from gapmllm.tasks.salvage import Problem as Problem

TASKS: dict[str, Task[Any]] = {task.name: task for task in (POINTS, DETECTION, FRAME, GROUNDING, CAPTIONING)}
"""Every task of the paper by name; `LOOKING` is only trained."""
