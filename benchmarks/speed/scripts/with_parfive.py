"""Fetch the files of a manifest with parfive: ``with_parfive.py manifest=FILE concurrency=NUMBER``."""

from __future__ import annotations

import sys

from jobs import arguments, jobs
from parfive import Downloader

given = arguments()
downloader = Downloader(max_conn=int(given["concurrency"]), max_splits=1, progress=False)
for job in jobs(given["manifest"]):
    directory, _, name = job.path.rpartition("/")
    downloader.enqueue_file(job.url, path=directory, filename=name, checksum=f"sha-256={job.sha256}")
if errors := downloader.download().errors:
    sys.exit(f"{len(errors)} files failed, such as {errors[0]}")
