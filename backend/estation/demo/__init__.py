"""One command from a bare machine to a running city."""
