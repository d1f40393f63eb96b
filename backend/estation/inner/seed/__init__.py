"""The demo city 江城市: who lives there, what they apply for and what they owe."""

from estation.inner.seed.writing import SeedReport, seed_city

__all__ = ["SeedReport", "seed_city"]
