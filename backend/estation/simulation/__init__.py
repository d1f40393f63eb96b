"""Whole worlds of payments under every hazard, replayable by seed (`estation simulate`)."""
