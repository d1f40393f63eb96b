"""No business words: money, clock, ids, errors, columns, outbox, replies, crypto."""
