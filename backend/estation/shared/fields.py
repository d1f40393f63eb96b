"""Column types whose Python type the checker can see."""

from typing import Any

from tortoise.fields import IntField

MAX_FEN = 10_000_000_000_000
"""100 billion yuan: no single amount of ours is larger; anything above is a mistake."""


class FenField(IntField[int]):
    """Money in fen (1 yuan = 100 fen), BIGINT, never null and never negative."""

    SQL_TYPE = "BIGINT"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(null=False, **kwargs)

    @property
    def constraints(self) -> dict[str, int]:
        return {"ge": 0, "le": MAX_FEN}
