"""A clip encoded once, many questions asked about it."""

from gapmllm.infer.decoding import Decoded as Decoded
from gapmllm.infer.decoding import Decoding as Decoding
from gapmllm.infer.decoding import EncodedClip as EncodedClip
