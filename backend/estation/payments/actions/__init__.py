"""Everything that changes orders, attempts, the inbox and incidents; owns the transactions."""
