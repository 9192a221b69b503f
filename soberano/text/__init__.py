"""Tokenizers, incremental detokenisation and chat templates."""
