"""Everything that writes the books: posting, undoing, sealing, publishing."""
