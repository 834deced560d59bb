"""Training: recipes, the loop, checkpoints, plans; packed sequences; the small tokenizer."""
