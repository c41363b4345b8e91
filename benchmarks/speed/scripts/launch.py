"""Run a command, and tell what it took: ``launch.py OUTPUT COMMAND…`` prints a line of JSON.

What the command prints goes to the file OUTPUT. `wall` and `cpu` are in seconds, the latter in the program and in the
kernel, of its children too; `peak` is the most that was resident, in bytes. The kernel counts for a process what its
parent had resident before, so that this one is a process of its own, and small.
"""

import json
import os
import sys
import time


def main() -> None:
    """Run it."""
    output, *command = sys.argv[1:]
    to_file = (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    from_nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    begin = time.perf_counter()
    process = os.posix_spawnp(
        command[0], command, os.environ, file_actions=[from_nothing, to_file, (os.POSIX_SPAWN_DUP2, 1, 2)]
    )
    _, status, usage = os.wait4(process, 0)
    wall = time.perf_counter() - begin
    told = {
        "code": os.waitstatus_to_exitcode(status),
        "wall": wall,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss * 1024,
    }
    print(json.dumps(told))


main()
