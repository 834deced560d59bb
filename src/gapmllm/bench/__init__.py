"""Measurements that the command `gapmllm bench` prints: ratios of two sides, taken in turn in one run."""
