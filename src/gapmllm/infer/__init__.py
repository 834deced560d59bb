"""A clip encoded once, many questions asked about it."""

from gapmllm.infer.confidence import scores_of as scores_of
from gapmllm.infer.decoding import Decoded as Decoded
from gapmllm.infer.decoding import Decoding as Decoding
from gapmllm.infer.encoded import EncodedClip as EncodedClip
from gapmllm.infer.forms import Form as Form
from gapmllm.infer.perception import Reconstruction as Reconstruction
from gapmllm.infer.pixels import clip_pixels as clip_pixels
from gapmllm.infer.questions import Describe as Describe
from gapmllm.infer.questions import Detect as Detect
from gapmllm.infer.questions import Ground as Ground
from gapmllm.infer.questions import Locate as Locate
from gapmllm.infer.view import View as View
from gapmllm.infer.view import watch as watch
