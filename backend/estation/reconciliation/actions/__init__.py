"""Fetch a day's bills, match them with the ledger, write down what was found."""
