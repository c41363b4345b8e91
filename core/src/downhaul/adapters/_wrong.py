"""Files that broke off because their bytes were not valid: whoever goes on where they ended, keeps wrong bytes.

Some clients do that by themselves (wget, curl -C -). The range that they ask for would be right, the file that they
put together would not.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Final

_SECONDS: Final = 3600.0
_KEPT: Final = 10_000


class WrongFiles:
    """The URLs of such files, of the last hour, and of these the last 10,000; for all threads of a process."""

    def __init__(self) -> None:
        self._until: OrderedDict[str, float] = OrderedDict()

    def add(self, url: str) -> None:
        """Remember that wrong bytes of *url* have been sent."""
        self._until[url] = time.monotonic() + _SECONDS
        self._until.move_to_end(url)
        while len(self._until) > _KEPT:
            self._until.popitem(last=False)

    def forget(self) -> None:
        """Forget them all."""
        self._until.clear()

    def __contains__(self, url: str) -> bool:
        return self._until.get(url, 0.0) > time.monotonic()


wrong_files: Final = WrongFiles()
