"""As much of Prometheus's language as our alert rules use, over two scrapes.

`rate` and `increase` are the difference between the earlier and the later scrape: in a test they
stand for the ends of the window. Whatever is not understood is an error, so that no rule passes
unread.
"""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Scrape:
    """One answer of /metrics and when it was given."""

    at: datetime
    samples: dict[tuple[str, Labels], float]


def scrape(text: str, *, at: datetime) -> Scrape:
    samples = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return Scrape(at, samples)


Vector = dict[Labels, float]

_COMPARISON = re.compile(r"(?P<left>.+) (?P<sign>>|<|==) (?P<right>-?[0-9.]+)")
_SELECTOR = re.compile(r"(?P<name>[a-z_]+)(?:\{(?P<labels>[^}]*)\})?")
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_WINDOW = re.compile(r"(?:rate|increase)\((?P<selector>[^\[]+)\[\d+m\]\)")
_GATHERED = re.compile(r"(?P<how>sum|max|min)(?: by \((?P<by>[\w, ]+)\) )?\((?P<inner>.+)\)")
_QUANTILE = re.compile(r"histogram_quantile\((?P<q>0\.\d+), (?P<inner>.+)\)")
_SINCE = re.compile(r"time\(\) - (?P<inner>.+)")


def is_firing(expression: str, before: Scrape, after: Scrape) -> bool:
    """Whether the alert's condition holds for any series. Raises ValueError when not understood."""
    parts = _COMPARISON.fullmatch(expression)
    if parts is None:
        raise ValueError(f"no comparison: {expression}")
    limit = float(parts["right"])
    hold = {">": float.__gt__, "<": float.__lt__, "==": float.__eq__}[parts["sign"]]
    return any(hold(value, limit) for value in evaluate(parts["left"], before, after).values())


def metric_names(expression: str) -> set[str]:
    """The metrics an expression reads."""
    return set(re.findall(r"\bestation_[a-z_]+", expression))


def evaluate(expression: str, before: Scrape, after: Scrape) -> Vector:
    if found := _SINCE.fullmatch(expression):
        moments = evaluate(found["inner"], before, after)
        return {labels: after.at.timestamp() - value for labels, value in moments.items()}
    if found := _QUANTILE.fullmatch(expression):
        buckets = evaluate(found["inner"], before, after)
        return {frozenset(): _quantile(float(found["q"]), buckets)}
    if found := _GATHERED.fullmatch(expression):
        inner = evaluate(found["inner"], before, after)
        return _gathered(found["how"], (found["by"] or "").split(", "), inner)
    if found := _WINDOW.fullmatch(expression):
        earlier, later = _select(found["selector"], before), _select(found["selector"], after)
        return {labels: value - earlier.get(labels, 0.0) for labels, value in later.items()}
    return _select(expression, after)


def _select(expression: str, scraped: Scrape) -> Vector:
    found = _SELECTOR.fullmatch(expression)
    if found is None:
        raise ValueError(f"not understood: {expression}")
    wanted = set(_LABEL.findall(found["labels"] or ""))
    return {
        labels: value
        for (name, labels), value in scraped.samples.items()
        if name == found["name"] and wanted <= labels
    }


def _gathered(how: str, by: Sequence[str], inner: Vector) -> Vector:
    groups: dict[Labels, list[float]] = defaultdict(list)
    for labels, value in inner.items():
        groups[frozenset(pair for pair in labels if pair[0] in by)].append(value)
    gather = {"sum": math.fsum, "max": max, "min": min}[how]
    return {labels: gather(values) for labels, values in groups.items()}


def _quantile(q: float, buckets: Vector) -> float:
    """The upper bound of the bucket that holds the quantile; NaN without observations."""
    bounds = sorted((float(dict(labels)["le"]), count) for labels, count in buckets.items())
    total = bounds[-1][1] if bounds else 0
    if not total:
        return math.nan
    return next(bound for bound, count in bounds if count >= q * total)
