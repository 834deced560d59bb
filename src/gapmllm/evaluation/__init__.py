"""Scores from prediction records on disk: no model, no torch."""

from gapmllm.evaluation.classes import CLASS_LISTS as CLASS_LISTS
from gapmllm.evaluation.records import CaptionRecord as CaptionRecord
from gapmllm.evaluation.records import DetectionRecord as DetectionRecord
from gapmllm.evaluation.records import GroundingRecord as GroundingRecord
from gapmllm.evaluation.records import PointsRecord as PointsRecord
from gapmllm.evaluation.records import RecordError as RecordError
from gapmllm.evaluation.records import RecordFile as RecordFile
from gapmllm.evaluation.records import write_records as write_records
from gapmllm.evaluation.report import Metric as Metric
from gapmllm.evaluation.report import Report as Report
from gapmllm.evaluation.score import score_file as score_file
