"""Fetch the files of a manifest with pooch, on threads: ``with_pooch.py manifest=FILE concurrency=NUMBER``."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pooch
from jobs import Job, arguments, jobs


def fetch(job: Job) -> None:
    """Fetch one file to its place, validated."""
    directory, _, name = job.path.rpartition("/")
    pooch.retrieve(job.url, known_hash=f"sha256:{job.sha256}", fname=name, path=directory)


given = arguments()
pooch.get_logger().setLevel("ERROR")
with ThreadPoolExecutor(int(given["concurrency"])) as threads:
    for _ in threads.map(fetch, jobs(given["manifest"])):
        pass
