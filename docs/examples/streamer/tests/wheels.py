"""A simple index of real wheels (PEP 503, PEP 427), and copies of it in which every file has a wrong byte."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def simple_index(root: Path, sizes: Mapping[str, int]) -> dict[str, Path]:
    """Make below *root* an index of wheels, each with so many random bytes; return their files by name."""
    made = {}
    for name, size in sizes.items():
        wheel = made[name] = root / "packages" / f"{name}-1.0-py3-none-any.whl"
        wheel.parent.mkdir(parents=True, exist_ok=True)
        about = f"{name}-1.0.dist-info"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"{name}/content", random.Random(name).randbytes(size))
            archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{about}/RECORD", "")
        page = root / "simple" / name / "index.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        link = f'<a href="../../packages/{wheel.name}#sha256={digest}">{wheel.name}</a>'
        page.write_text(f"<!DOCTYPE html><html><body>{link}</body></html>\n")
    return made


def corrupt_copy(root: Path, target: Path, pattern: str = "**/*") -> Path:
    """Copy *root* to *target*; a byte of each file that fits the *pattern* is another, its size and time are not."""
    shutil.copytree(root, target)
    for path in [each for each in target.glob(pattern) if each.is_file()]:
        before, content = path.stat(), bytearray(path.read_bytes())
        if content:
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return target
