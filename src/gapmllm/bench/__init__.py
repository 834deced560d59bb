"""Measurements that the command `gapmllm bench` prints: rates, and ratios of two sides taken in turn in one run."""
