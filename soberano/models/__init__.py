"""Transformers: one file an architecture, and the loop that turns them into text."""
