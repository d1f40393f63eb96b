"""Pay orders, channel attempts, notices and the one door to paid."""
