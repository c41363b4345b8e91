"""Run a command, and tell what it took: ``launch.py OUTPUT COMMAND…`` prints a line of JSON.

What the command prints goes to the file OUTPUT. `wall` and `cpu` are in seconds, the latter in the program and in the
kernel, of its children too; `others` is what all other processes used meanwhile; `peak` is the most that was resident
in one of its processes, in bytes. The kernel counts for a process what its parent had resident before, so this one is
a small process of its own.
"""

import json
import os
import sys
import time


def busy() -> float:
    """Return the seconds that all processors of this machine have been at work so far."""
    with open("/proc/stat") as lines:  # noqa: PTH123 - pathlib is an import more
        user, nice, system, _idle, _wait, irq, soft_irq, *_ = map(int, lines.readline().split()[1:])
    return (user + nice + system + irq + soft_irq) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run it."""
    output, *command = sys.argv[1:]
    to_file = (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    from_nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    busy_before = busy()
    begin = time.perf_counter()
    process = os.posix_spawnp(
        command[0], command, os.environ, file_actions=[from_nothing, to_file, (os.POSIX_SPAWN_DUP2, 1, 2)]
    )
    _, status, usage = os.wait4(process, 0)
    wall = time.perf_counter() - begin
    cpu = usage.ru_utime + usage.ru_stime
    told = {
        "code": os.waitstatus_to_exitcode(status),
        "wall": wall,
        "cpu": cpu,
        "others": max(busy() - busy_before - cpu, 0.0),
        "peak": usage.ru_maxrss * 1024,
    }
    print(json.dumps(told))


main()
