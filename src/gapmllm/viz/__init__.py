"""Pictures to look at."""

from gapmllm.viz.overlay import draw_boxes as draw_boxes
