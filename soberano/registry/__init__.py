"""Where models come from: sources, hashes, the local store."""
