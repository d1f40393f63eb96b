"""受理号 and 缴款单号: a Beijing date and a serial that never repeats."""

from datetime import datetime

from tortoise import Tortoise

from estation.shared.clock import beijing_day


async def take_numbers(prefix: str, moments: list[datetime]) -> list[str]:
    """One number per moment, e.g. JF202611230001, in the caller's transaction.

    The row lock of the day's series orders concurrent desks; a rolled-back transaction gives
    its numbers back.
    """
    per_day: dict[str, int] = {}
    for moment in moments:
        day = f"{beijing_day(moment):%Y%m%d}"
        per_day[day] = per_day.get(day, 0) + 1
    next_serial = {}
    for day in sorted(per_day):
        next_serial[day] = await _reserve(f"{prefix}{day}", per_day[day])
    numbers = []
    for moment in moments:
        day = f"{beijing_day(moment):%Y%m%d}"
        numbers.append(f"{prefix}{day}{next_serial[day]:04d}")
        next_serial[day] += 1
    return numbers


async def take_certificate_numbers(kind: str, years: list[int]) -> list[str]:
    """One number per year given, e.g. 赣（2026）江城市不动产权第0000001号; `kind` title or proof.

    The serial runs within kind and year, as the number's form wants it.
    """
    word = {"title": "权", "proof": "证明"}[kind]
    next_serial = {}
    for year in sorted(set(years)):
        next_serial[year] = await _reserve(f"ZH{kind}{year}", years.count(year))
    numbers = []
    for year in years:
        numbers.append(f"赣（{year}）江城市不动产{word}第{next_serial[year]:07d}号")
        next_serial[year] += 1
    return numbers


async def _reserve(series: str, count: int) -> int:
    """The first of `count` serials that now belong to the caller."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """insert into number_series (series, last_number) values ($1, $2)
           on conflict (series) do update
             set last_number = number_series.last_number + excluded.last_number
           returning last_number""",
        [series, count],
    )
    first: int = rows[0]["last_number"] - count + 1
    return first
