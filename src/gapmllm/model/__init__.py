"""VGGT beside Qwen3-VL, fused at four levels by token gates."""

from gapmllm.model.config import GapMllmConfig as GapMllmConfig
from gapmllm.model.fusion import FUSIONS as FUSIONS
from gapmllm.model.fusion import GatedFusion as GatedFusion
from gapmllm.model.gapmllm import IGNORE as IGNORE
from gapmllm.model.gapmllm import PARTS as PARTS
from gapmllm.model.gapmllm import TRAINED as TRAINED
from gapmllm.model.gapmllm import GapMllm as GapMllm
from gapmllm.model.gapmllm import gates as gates
from gapmllm.model.image_grid import ClipPixels as ClipPixels
from gapmllm.model.image_grid import ImageGrid as ImageGrid
from gapmllm.model.loading import build as build
from gapmllm.model.loading import load as load
from gapmllm.model.merger import GeometryMerger as GeometryMerger
from gapmllm.model.presets import PRESETS as PRESETS
from gapmllm.model.released import save_released as save_released
from gapmllm.model.tokenizer import Prompts as Prompts
from gapmllm.model.vggt import Vggt as Vggt
from gapmllm.model.vggt import VggtConfig as VggtConfig
