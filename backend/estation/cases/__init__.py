"""Matters (办件) and their progress, replicated from the internal platform."""
