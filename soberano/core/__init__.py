"""Errors, settings, types, units and the one way out. Imports nothing of the project outside itself."""
