"""Units, rights, restrictions and certificates (登记簿), replicated from the centres."""
