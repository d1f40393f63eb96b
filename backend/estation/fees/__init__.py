"""Fee bills (缴费单) and their items, replicated from the internal platform."""
