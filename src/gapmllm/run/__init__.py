"""Run it: from a user's input to a folder of answers; evaluation; the demo."""
