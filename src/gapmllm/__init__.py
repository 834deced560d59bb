"""GAP-MLLM: a multimodal LLM that sees in 3D from RGB frames alone (arXiv 2603.16461)."""

__version__ = "0.1.0"
