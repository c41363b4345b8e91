"""The command ``downhaul``; ``python -m downhaul`` is the same."""

from __future__ import annotations

import sys
from typing import Final, NoReturn

_USAGE: Final = 2
_INTERRUPTED: Final = 130


def main() -> NoReturn:
    """Run the command and exit with its code; without its libraries, say what to install and exit with 2."""
    try:
        import click  # noqa: F401
        import rich  # noqa: F401

        from downhaul.cli import run
    except ModuleNotFoundError as missing:
        if missing.name not in {"click", "rich"}:
            raise
        sys.stderr.write(f"downhaul: the command needs {missing.name}: pip install 'downhaul[cli]'\n")
        sys.exit(_USAGE)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    sys.exit(run())


if __name__ == "__main__":
    main()
