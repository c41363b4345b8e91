"""tests/advisories.csv: what went wrong elsewhere, and the test that it does not go wrong here.

One row for each advisory: its name, its class, and the test, which pytest can run by that name. The classes:

S1   Authorization goes to another origin with a redirect        S11  names that metadata choose
S2   so do the header fields of other tokens                     S16  other schemes: redirects, lists, metalinks
S3   cookies                                                     S17  encryption is given up
S4   netrc                                                       S22  XML: entities, bombs, depth
S5   tokens for another protocol, or cached for another origin   S24  wrong bytes are kept
S6   credentials for mirrors                                     S25  digests: whose, how strong, how much of them
S9   names in Content-Disposition, and the like                  S28  secrets in logs, errors, pickles, attributes
S10  names that are decoded twice                                L    lists of mirrors: no advisories, but faults
"""

from __future__ import annotations

import csv
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
ADVISORIES: Final = {
    "S1": (
        "curl CVE-2018-1000007", "requests CVE-2018-18074", "Twisted CVE-2022-21712", "curl CVE-2022-27776",
        "scrapy GHSA-4qqq", "curl CVE-2022-27774", "urllib3 CVE-2018-20060", "urllib3 CVE-2018-25091",
        "requests CVE-2014-1829", "scrapy GHSA-cw9j", "Go CVE-2024-45336", "wget CVE-2021-31879", "rclone GHSA-cf44",
        "aiohttp #13180",
    ),
    "S2": (
        "follow-redirects GHSA-r4q5-vmmm-2653", "axios and GitLab: Private-Token on redirects",
        "httpx: all but Authorization and Cookie on redirects",
    ),
    "S3": (
        "curl CVE-2026-8924", "curl CVE-2023-46218", "curl CVE-2013-1944", "curl CVE-2014-3620",
        "urllib3 CVE-2023-43804", "yt-dlp CVE-2023-35934", "yt-dlp CVE-2026-50019", "scrapy GHSA-cjvr",
        "treq CVE-2022-23607", "aiohttp #12550", "scrapy GHSA-mfjm",
    ),
    "S4": (
        "curl CVE-2024-11053", "curl CVE-2025-0167", "curl CVE-2026-3783", "curl CVE-2026-6429", "curl CVE-2026-8926",
        "requests CVE-2024-47081",
    ),
    "S5": (
        "curl CVE-2025-14524", "curl CVE-2026-11856", "aiohttp #12825", "curl CVE-2026-7168", "curl CVE-2026-8927",
    ),
    "S6": (
        "curl CVE-2021-22923", "pip #14182",
    ),
    "S9": (
        "pip CVE-2019-20916", "curl CVE-2010-3842", "curl CVE-2016-0754",
        "wget CVE-2010-2252", "wget CVE-2016-4971",
        "xh and python-fsutil: names in Content-Disposition",
    ),
    "S10": (
        "pip CVE-2026-13346", "wcurl CVE-2025-11563", "curl CVE-2022-27780",
    ),
    "S11": (
        "librepo CVE-2020-14352", "TUF CVE-2021-41131", "aria2: directory traversal in metalinks",
        "containers/image CVE-2024-3727", "wget2 CVE-2025-69194", "rclone CVE-2026-71313", "rclone CVE-2026-59732",
    ),
    "S16": (
        "curl CVE-2009-0037", "scrapy GHSA-23j4", "curl CVE-2024-2004",
        "composer 2.10.2: only HTTP redirects from HTTP", "go-getter CVE-2022-26945", "pip #14159",
    ),
    "S17": (
        "composer 2.10: schemes in upper case", "curl HSTS", "scrapy GHSA-76g3", "wget HSTS",
    ),
    "S22": (
        "scrapy GHSA-cc65",
    ),
    "S24": (
        "curl CVE-2021-22922",
    ),
    "S25": (
        "apt CVE-2019-3462", "apt CVE-2018-0501", "apt: weak digests", "pip: digests that are short, or missing",
    ),
    "S28": (
        "aria2 CVE-2019-3500", "wget CVE-2018-20483", "composer GHSA-g6xq", "composer GHSA-f9f8", "composer #12959",
        "uv #21130", "pip: redact_auth_from_url",
    ),
    "L": (
        "L1", "L2", "L3", "L4", "L5",
    ),
}  # fmt: skip
"""The advisories of each class that are known, however many rows there are."""


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    """Return the rows of the table."""
    with (ROOT / "tests" / "advisories.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def collected(rows: list[dict[str, str]]) -> set[str]:
    """Return the names of all tests in the files that are named, as pytest finds them, with and without parameters."""
    files = sorted({row["test"].partition("::")[0] for row in rows})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    names = {line for line in ended.stdout.splitlines() if "::" in line}
    return names | {name.partition("[")[0] for name in names}


def test_the_columns(rows: list[dict[str, str]]) -> None:
    """Each row has an advisory, a class and a test, and nothing else."""
    for row in rows:
        assert list(row) == ["advisory", "class", "test"], row
        assert all(row.values()), row


def test_each_test_exists(rows: list[dict[str, str]], collected: set[str]) -> None:
    """Each test that is named is one that pytest would run, its parameters included."""
    assert [row for row in rows if row["test"] not in collected] == []


def test_no_advisory_is_missing(rows: list[dict[str, str]]) -> None:
    """Each advisory that is known has a row in its class, and only one; there is none that is not known."""
    assert Counter((row["class"], row["advisory"]) for row in rows) == Counter(
        (each, advisory) for each, advisories in ADVISORIES.items() for advisory in advisories
    )
    assert max(Counter(row["advisory"] for row in rows).values()) == 1


def test_a_missing_test_is_noticed(collected: set[str]) -> None:
    """A name that no test has, or a parameter that it has not, is not among what is collected."""
    known = "tests/plugins/test_advisories_mirrors.py::test_no_name_from_elsewhere_is_used"
    assert known in collected
    assert f"{known}[mirror]" in collected
    assert f"{known}[nowhere]" not in collected
    assert f"{known}_or_is_it" not in collected
