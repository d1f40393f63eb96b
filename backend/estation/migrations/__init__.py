"""Changes to the online database, one chain."""
