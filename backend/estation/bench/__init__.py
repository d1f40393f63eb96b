"""Measures our hot paths against the floors of the same machine in the same run."""
