"""The example of a proxy logs no address that holds a code, and trusts no caller's own word."""

import re

from estation.app import MAX_BODY_BYTES
from estation.settings import CONFIG

PROXY = (CONFIG / "nginx.example.conf").read_text(encoding="utf-8")
SAID = re.sub(r"#.*", "", PROXY)


def test_the_log_holds_no_query_no_referrer_and_no_code() -> None:
    (log_format,) = re.findall(r"log_format estation (.*?);", SAID, re.DOTALL)
    names = set(re.findall(r"\$(\w+)", log_format))

    assert names == {
        "time_iso8601", "request_method", "uri_without_codes", "status", "bytes_sent",
        "request_time", "remote_addr",
    }  # fmt: skip
    assert re.findall(r"access_log \S+ (\w+);", SAID) == ["estation"]
    assert re.findall(r"error_log \S+ (\w+);", SAID) == ["crit"]


def test_the_map_hides_what_follows_c_and_nothing_else() -> None:
    pattern, shown = re.findall(r"~(\S+) +(/c/\S+);", SAID)[0]
    hides = re.compile(pattern.replace("(?<", "(?P<"))

    def logged(uri: str) -> str:
        found = hides.search(uri)
        return shown.replace("$rest", found["rest"] or "") if found else uri

    assert logged("/c/B123-7K2MZQ0V") == "/c/*"
    assert logged("/c/B123-7K2MZQ0V/qr.svg") == "/c/*/qr.svg"
    assert logged("/cases/1") == "/cases/1"


def test_the_callers_own_word_on_its_address_is_replaced() -> None:
    assert re.findall(r"x-forwarded-for (\S+);", SAID) == ["$remote_addr"]


def test_the_proxy_takes_what_the_program_takes() -> None:
    (size,) = re.findall(r"client_max_body_size (\d+)k;", SAID)

    assert int(size) * 1024 == MAX_BODY_BYTES
