"""GGUF: read and write model files."""
