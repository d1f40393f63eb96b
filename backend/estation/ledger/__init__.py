"""Append-only double-entry transfers (复式记账)."""
