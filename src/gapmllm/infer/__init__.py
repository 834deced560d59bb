"""A clip encoded once, many questions asked about it."""
