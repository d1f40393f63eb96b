"""不动产 e 站: the online service platform of a city's real-estate registration."""
