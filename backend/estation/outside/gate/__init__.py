"""The one-way gate (单向光闸): sealed, gap-free, chained files in each direction."""
