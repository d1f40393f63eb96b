"""Proves a day: channel bills against the ledger (对账)."""
