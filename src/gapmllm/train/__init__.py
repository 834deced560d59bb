"""Training: the small tokenizer, packed sequences."""
