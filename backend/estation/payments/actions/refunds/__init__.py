"""Asking for refunds, deciding them, and taking them to the channels."""
