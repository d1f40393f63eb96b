"""Changes to the internal database, one chain of its own."""
