"""The contestants: the command by which each of them fetches the files of a task."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .measure import SCRIPTS
from .peers import DOWNHAUL, PEERS, Environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .files import Task

SIX: Final = "md5,sha1,sha224,sha256,sha384,sha512"
_BESIDES: Final = "md5,sha1,sha224,sha384,sha512"  # sha256 is validated


@dataclass(frozen=True, slots=True)
class Order:
    """What a contestant is told: the task, how many files at a time, and how downhaul is to go about it."""

    task: Task
    concurrency: int
    form: str = "asyncio"
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Contestant:
    """Who fetches files: the command for an order, and the name of the peer that it needs, or "" for none.

    One that does not *fetch* is a limit: it leaves no files. *most* is how many files at a time are possible at all.
    """

    name: str
    command: Callable[[Order], list[str]]
    peer: str = ""
    fetches: bool = True
    most: int = 1000

    @property
    def missing(self) -> str:
        """Why it cannot run, or ""."""
        return PEERS[self.peer].missing if self.peer else ""


def _downhaul(order: Order) -> list[str]:
    script = "downhaul_many.py" if len(order.task.files) > 1 else "downhaul_one.py"
    workers = [f"workers={order.workers}"] if order.workers > 1 else []
    return [*_script(str(DOWNHAUL.python), script, order), f"form={order.form}", *workers]


def _downhaul_sync(order: Order) -> list[str]:
    return _downhaul(Order(order.task, order.concurrency, "sync", order.workers))


def _downhaul_six(order: Order) -> list[str]:
    return [*_downhaul(order), f"digests={_BESIDES}"]


def _hashing(order: Order) -> list[str]:
    files = order.task.files
    sizes = [f"number={len(files)}", f"size={files[0].size}"]
    return [sys.executable, str(SCRIPTS / "hashing.py"), *sizes, f"digests={SIX}", "threads=2"]


def _curl(order: Order) -> list[str]:
    task = order.task
    command = ["curl", "-q", "--fail", "--no-progress-meter"]
    if task.certificate:
        command += ["--cacert", str(task.certificate)]
    if len(task.files) == 1:
        return [*command, "-o", str(task.files[0].path), task.files[0].url]
    config = _written(task, "curl", (f'url = "{each.url}"\noutput = "{each.path}"' for each in task.files))
    return [*command, "--parallel", "--parallel-max", str(order.concurrency), "--parallel-immediate", "-K", config]


def _aria2(order: Order) -> list[str]:
    task = order.task
    lines = (f"{each.url}\n  out={each.path.name}\n  checksum=sha-256={each.sha256}" for each in task.files)
    command = ["aria2c", "--no-conf", "--quiet", "--file-allocation=none", "-x1", "-s1", f"-j{order.concurrency}"]
    if task.certificate:
        command.append(f"--ca-certificate={task.certificate}")
    return [*command, "-d", str(task.target), "-i", _written(task, "aria2", lines)]


def _wget2(order: Order) -> list[str]:
    task = order.task
    command = ["wget2", "--no-config", "--quiet", "--no-hsts", "--no-ocsp", f"--max-threads={order.concurrency}"]
    if task.certificate:
        command.append(f"--ca-certificate={task.certificate}")
    urls = _written(task, "wget2", (each.url for each in task.files))
    return [*command, "-P", str(task.target), "-i", urls]


def _lftp(order: Order) -> list[str]:
    task = order.task
    target = shlex.quote(str(task.target))
    get = f"pget -n 1 -O {target} {task.files[0].path.name}"
    if len(task.files) > 1:
        get = f"mget -P {order.concurrency} -O {target} *"
    return ["lftp", "-c", f"set cmd:fail-exit true; open {task.base}; {get}"]


def _recipe(peer: str) -> Callable[[Order], list[str]]:
    """Return what makes the command of the script that is run by the interpreter of *peer*."""

    def command(order: Order) -> list[str]:
        environment = PEERS[peer]
        assert isinstance(environment, Environment)
        return _script(str(environment.python), f"with_{peer}.py", order)

    return command


def _script(python: str, name: str, order: Order) -> list[str]:
    certificate = [f"certificate={order.task.certificate}"] if order.task.certificate else []
    given = [f"manifest={order.task.manifest}", f"concurrency={order.concurrency}", *certificate]
    return [python, str(SCRIPTS / name), *given]


def _written(task: Task, name: str, lines: Iterable[str]) -> str:
    """Write *lines* to a file called *name*; return its path."""
    path = task.work / name
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


OURS: Final = "downhaul"
OURS_SYNC: Final = "downhaul, sync"
OURS_SIX: Final = "downhaul, six digests"
HASHING: Final = "six digests, two threads"
CONTESTANTS: Final[dict[str, Contestant]] = {
    each.name: each
    for each in (
        Contestant(OURS, _downhaul),
        Contestant(OURS_SYNC, _downhaul_sync),
        Contestant(OURS_SIX, _downhaul_six),
        Contestant(HASHING, _hashing, fetches=False),
        Contestant("curl", _curl, "curl", most=300),  # it takes more for a mistake, and makes 50
        Contestant("aria2", _aria2, "aria2"),
        Contestant("wget2", _wget2, "wget2"),
        Contestant("lftp", _lftp, "lftp"),
        *(Contestant(name, _recipe(name), name) for name in ("httpx", "aiohttp", "pulpcore", "parfive", "pooch")),
    )
}
