"""Hash bytes in memory, and nothing else: what it takes at least to hash files.

``hashing.py number=NUMBER size=BYTES digests=NAME,… threads=NUMBER`` hashes *number* times *size* bytes by all digests,
each time on one of the threads, and prints how many seconds that took.
"""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from jobs import arguments

if TYPE_CHECKING:
    from collections.abc import Sequence

_BLOCK: Final = 256 * 1024  # bytes: short enough for the processor's cache, long enough for threads


def hash_file(names: Sequence[str], size: int, block: memoryview) -> None:
    """Calculate the digests called *names* of *size* bytes, which repeat *block*."""
    digests = [hashlib.new(name) for name in names]
    for place in range(0, size, len(block)):
        piece = block[: size - place]
        for digest in digests:
            digest.update(piece)
    for digest in digests:
        digest.hexdigest()


def main() -> None:
    """Hash all of it."""
    given = arguments()
    names, size = given["digests"].split(","), int(given["size"])
    block = memoryview(os.urandom(_BLOCK))
    begin = time.perf_counter()
    with ThreadPoolExecutor(int(given["threads"])) as threads:
        for each in [threads.submit(hash_file, names, size, block) for _ in range(int(given["number"]))]:
            each.result()
    print(time.perf_counter() - begin)


main()
