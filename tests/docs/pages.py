"""The pages of the documentation, and the blocks of code in them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("README.md", "core/README.md", "drivers/*/README.md", "docs/**/*.md")
    for path in ROOT.glob(pattern)
    if not path.relative_to(ROOT).as_posix().startswith("docs/examples/") or path.name == "README.md"
)
"""Every page whose blocks are executed, relative to the root of the checkout."""

LANGUAGES: Final = {"python", "output", "console", "toml", "text"}
"""What a block may be: run, compared with what the block before it printed, run or looked up, parsed, a picture."""

_HOST: Final = re.compile(r"(?<![\w.-])(?:[a-z0-9-]+\.)+example\.(?:org|net|com)(?::\d+)?(?![\w-])")
_FENCE: Final = re.compile(r"^(?P<indent> *)(?P<marks>`{3,}|~{3,})(?P<info>[^`]*)$")


@dataclass
class Block:
    """A block of code: its language ("" where none is given), its first line in the page (from 1), its lines.

    `path` is what stands behind the language: the file that the block is a part of, or "" where it is of none.
    """

    language: str
    line: int
    lines: list[str] = field(default_factory=list)
    path: str = ""

    @property
    def text(self) -> str:
        """The code, each line with its end."""
        return "".join(f"{line}\n" for line in self.lines)


def localized(text: str, addresses: Mapping[str, str]) -> str:
    """Return *text* with the names of example hosts replaced by *addresses*; KeyError for one without a server."""
    return _HOST.sub(lambda match: addresses[match[0]], text)


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of *text* in order; one that is indented instead counts as ``console``."""
    found: list[Block] = []
    fence, indent, blank_before, in_list = "", "", True, False
    for number, line in enumerate(text.splitlines(), 1):
        match = _FENCE.match(line)
        if fence:
            if match and match["marks"].startswith(fence) and not match["info"].strip():
                fence = ""
            else:
                found[-1].lines.append(line.removeprefix(indent))
        elif match:
            fence, indent = match["marks"], match["indent"]
            language, _, path = match["info"].strip().partition(" ")
            found.append(Block(language, number + 1, path=path))
        elif line.startswith("    ") and line.strip() and not in_list:
            if blank_before:
                found.append(Block("console", number))
            found[-1].lines.append(f"$ {line.strip()}")
        elif line.strip():
            in_list = bool(re.match(r"([-*+]|\d+\.) ", line)) or (in_list and line.startswith(" "))
        blank_before = not line.strip() or (blank_before and not line.startswith("    "))
    if fence:
        raise ValueError(f"the block at line {found[-1].line} has no end")
    return found


def sections(text: str) -> dict[str, str]:
    """Return what stands under each heading of *text*, up to the next one of whatever level."""
    found: dict[str, str] = {}
    heading, fenced = "", False
    for line in text.splitlines():
        fenced ^= bool(_FENCE.match(line))
        if line.startswith("#") and not fenced:
            heading = line.lstrip("#").strip()
            found[heading] = ""
        elif heading:
            found[heading] += f"{line}\n"
    return found


def anchor(heading: str) -> str:
    """Return the name that a heading can be linked by."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-")
