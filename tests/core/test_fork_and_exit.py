"""The ends of processes: forks, interpreters that exit, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import downhaul

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
PATIENCE = 30
HEAD = """
import asyncio, gc, os, signal, sys, threading, time
from pathlib import Path
from downhaul import *
from downhaul import _context
from tests.mem import MemDriver, Reply

URL, DATA = "mem://home/file", b"x" * 300_000
BIG = bytes(3 << 20)  # large enough that some of it is written before the end
target = Path(sys.argv[1])

class Told(MemDriver):
    "Says aloud when a body is under way."

    async def _body(self, reply, start, stop):
        blocks = 0
        async for block in super()._body(reply, start, stop):
            yield block
            blocks += 1
            if reply.hang and blocks == 3 and not self.begun.is_set():
                self.files = len(list(target.iterdir()))
                self.begun.set()
                print("begun", flush=True)

    begun = threading.Event()

driver = Told()
driver.site(URL, Reply(DATA))
driver.site("mem://home/hangs", Reply(BIG, hang="body", block=1 << 20))

def default():
    "Let the default context know the driver."
    context = _context.default_context()
    context._given["mem"] = driver
    context._drivers = type(context._drivers)(context._given)
    return context
"""
STRICT = ("-X", "dev", "-W", "error")
FORKS = ("-W", "ignore:This process:DeprecationWarning")  # Python 3.12 advises against what is tested here


def start(program: str, target: Path, *options: str) -> subprocess.Popen[str]:
    """Start *program* in an interpreter of its own."""
    home = Path(downhaul.__path__[0]).parent
    environment = {**os.environ, "PYTHONPATH": f"{home}{os.pathsep}{ROOT}", "PYTHONFAULTHANDLER": "1"}
    # A shell's background job may have SIGINT ignored, which children inherit.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, *options, *FORKS, "-c", HEAD + program, str(target)],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the end of *process*: what it returned, and what it said."""
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"it hangs: {out} {err}")
    return process.returncode, out, err


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Run a program to its end, without any warning or complaint; return what it prints."""

    def run(program: str, *options: str) -> str:
        code, out, err = finish(start(program, tmp_path, *options))
        assert (code, err) == (0, ""), err
        return out

    return run


@pytest.mark.parametrize(
    "program",
    [
        "pass",
        "default()",
        "default(); print(Download(URL, BufferWriter())().size)",
        "default(); print(asyncio.run(Download(URL, BufferWriter()).run()).size)",
        "context = Context(drivers={'mem': driver}); print(Download(URL, BufferWriter(), context=context)().size)",
        "with Context(drivers={'mem': driver}) as context: Download(URL, BufferWriter(), context=context)()",
        "default()\nwith Batch([Download(URL, BufferWriter()) for _ in range(9)]) as batch: print(len(list(batch())))",
        "default()\nbatch = Batch([Download(URL, BufferWriter())] * 9).__enter__(); print(next(batch()).result().size)",
        "default()\nstream = Download(URL).stream().__enter__(); print(len(next(stream)))",
    ],
)
def test_exit_is_clean(run: Callable[..., str], program: str) -> None:
    """The default context, and any other that was left open, closes at exit: no hang, no warning, no traceback."""
    run(program, *STRICT)


@pytest.mark.parametrize("context", ["default()", "Context(drivers={'mem': driver})"])
@pytest.mark.parametrize("where", ["thread", "bridge"])
def test_exit_with_downloads_running(run: Callable[..., str], tmp_path: Path, context: str, where: str) -> None:
    """Downloads that run when the interpreter exits are cancelled, and leave no file."""
    work = {
        "thread": "threading.Thread(target=suppressed, daemon=True).start()",
        "bridge": "asyncio.run(begin())",
    }[where]
    run(
        f"""
context = {context}
download = Download("mem://home/hangs", FileWriter(target / "file"), context=context)

def suppressed():
    try: download()
    except RuntimeError as error: assert "closed" in str(error)

async def begin():
    task = asyncio.create_task(download.run())
    await asyncio.to_thread(driver.begun.wait, 10)

{work}
assert driver.begun.wait(10)
assert driver.files == 1
""",
        *STRICT,
    )
    assert list(tmp_path.iterdir()) == []


def test_many_downloads_running_at_exit(run: Callable[..., str], tmp_path: Path) -> None:
    """A batch that a daemon thread never left is cleaned up at exit too."""
    run(
        """
default()
def consume():
    jobs = (Download("mem://home/hangs", FileWriter(target / str(number))) for number in range(50))
    with Batch(jobs, concurrency=20, backlog=20) as batch:
        for plan in batch(): pass
threading.excepthook = lambda _: None
threading.Thread(target=consume, daemon=True).start()
assert driver.begun.wait(10)
assert driver.files
""",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    sys.version_info[:2] == (3, 12), reason="Python 3.12 starts no thread once the main one has come to its end"
)
def test_threads_that_outlive_the_main_thread(run: Callable[..., str], tmp_path: Path) -> None:
    """Threads that go on when the main one has come to its end download as before, large files too."""
    out = run(
        """
context = default()
def work():
    threading.main_thread().join()
    for url in (URL, URL.replace("file", "large")):
        download = Download(url, FileWriter(target / "file"), digests=["sha256"])
        print(download().size, asyncio.run(download.run()).size)
driver.site("mem://home/large", Reply(DATA * 10))
threading.Thread(target=work).start()
""",
        *STRICT,
    )
    assert out == "300000 300000\n3000000 3000000\n"


@pytest.mark.parametrize("bridged", [False, True])
def test_exit_after_the_loop_was_closed(tmp_path: Path, bridged: bool) -> None:
    """A program may close its loop in the middle of a batch and end: it neither crashes nor hangs."""
    context = "Context(drivers={'mem': driver})"
    code, out, err = finish(
        start(
            f"""
driver = MemDriver()
driver.site("mem://home/file", data=bytes(1000))
driver.site("mem://home/hangs", data=bytes(100_000), cut=500, hang="body")

def jobs():
    for number in range(30):
        yield Download("mem://home/file", BufferWriter())
        if number % 3 == 0:
            yield Download("mem://home/hangs", BufferWriter())

async def main():
    context = {context if bridged else f"await {context}.__aenter__()"}
    taken = 0
    async with Batch(jobs(), context=context) as batch:
        async for plan in batch():
            taken += 1
            if taken == 5:
                loop.stop()

loop = asyncio.new_event_loop()
task = loop.create_task(main())
loop.run_forever()
loop.close()
print("closed", flush=True)
""",
            tmp_path,
        )
    )
    assert (code, out.splitlines()[-1]) == (0, "closed"), err


def interrupted(program: str, tmp_path: Path) -> tuple[int, str, str]:
    """Start *program*, send it Ctrl-C once it says that it has begun, and wait for its end."""
    process = start(program, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n", finish(process)
    process.send_signal(signal.SIGINT)
    return finish(process)


CTRL_C = {
    "call": 'Download("mem://home/hangs", FileWriter(target / "file"))()',
    "function": 'import downhaul; downhaul.download("mem://home/hangs", target / "file")',
    "stream": 'with Download("mem://home/hangs", FileWriter(target / "file")).stream() as stream: list(stream)',
    "batch": """
with Batch(Download("mem://home/hangs", FileWriter(target / str(n))) for n in range(30)) as batch: list(batch())""",
    "run": 'asyncio.run(Download("mem://home/hangs", FileWriter(target / "file")).run())',
    "async batch": """
async def work():
    async with Batch(Download("mem://home/hangs", FileWriter(target / str(n))) for n in range(30)) as batch:
        async for plan in batch(): pass
asyncio.run(work())""",
    "bound": """
async def work():
    async with Context(drivers={"mem": driver}) as context:
        await Download("mem://home/hangs", FileWriter(target / "file"), context=context).run()
asyncio.run(work())""",
}


@pytest.mark.parametrize("how", CTRL_C)
def test_ctrl_c(how: str, tmp_path: Path) -> None:
    """Ctrl-C cancels, awaits the clean-up, and is raised again: no file is left, no slot, and nothing complains."""
    body = "\n    ".join(CTRL_C[how].strip().splitlines())
    program = f"""
context = default()
try:
    {body}
except KeyboardInterrupt:
    left = driver.live, context.connections_in_use, len(list(target.iterdir()))
    print("interrupted", driver.files > 0, left, flush=True)
    raise
"""
    code, out, err = interrupted(program, tmp_path)
    assert out.splitlines()[-1] == "interrupted True (0, 0, 0)", (out, err)
    assert code == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert "never" not in err
    assert "ResourceWarning" not in err
    assert list(tmp_path.iterdir()) == []


def test_work_after_ctrl_c(tmp_path: Path) -> None:
    """After a Ctrl-C that the program caught, the context works on."""
    program = """
default()
try:
    Download("mem://home/hangs", BufferWriter())()
except KeyboardInterrupt:
    print(Download(URL, BufferWriter())().size)
"""
    assert interrupted(program, tmp_path) == (0, "300000\n", "")


def test_other_signals_that_raise(tmp_path: Path) -> None:
    """Whatever a signal handler raises, SystemExit say, ends a synchronous call in the same orderly way."""
    program = """
default()
signal.signal(signal.SIGINT, lambda *_: sys.exit(7))
Download("mem://home/hangs", FileWriter(target / "file"))()
"""
    code, _, err = interrupted(program, tmp_path)
    assert (code, err, list(tmp_path.iterdir())) == (7, "", [])


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")


@needs_fork
@pytest.mark.parametrize("context", ["default()", "Context(drivers={'mem': driver})"])
def test_child_starts_empty(run: Callable[..., str], context: str) -> None:
    """After a fork the child's context starts empty and works; the parent goes on; each exits in peace."""
    out = run(
        f"""
context = {context}
assert Download(URL, BufferWriter(), context=context)().size == len(DATA)
mine = context._thread
child = os.fork()
if not child:
    assert context.connections_in_use == 0
    assert context._thread is None
    assert Download(URL, BufferWriter(), context=context)().size == len(DATA)
    assert asyncio.run(Download(URL, BufferWriter(), context=context).run()).size == len(DATA)
    with Batch([Download(URL, BufferWriter())] * 3, context=context) as batch: assert len(list(batch())) == 3
    assert context._thread is not mine
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert context._thread is mine
assert Download(URL, BufferWriter(), context=context)().size == len(DATA)
print("both")
""",
        "-X", "dev",
    )  # fmt: skip
    assert out == "both\n"


@needs_fork
def test_fork_while_a_download_runs(run: Callable[..., str], tmp_path: Path) -> None:
    """A fork in the middle of a download of another thread: the child leaves it alone, the parent finishes it."""
    out = run(
        """
gate = asyncio.Event()
driver.site("mem://home/slow", Reply(DATA, gate=gate))
context = default()
thread = threading.Thread(target=Download("mem://home/slow", FileWriter(target / "file")))
thread.start()
while not driver.log: time.sleep(0.001)
children = []
for _ in range(5):
    child = os.fork()
    if not child:
        assert Download(URL, BufferWriter())().size == len(DATA)
        context.close()
        os._exit(0)
    children.append(child)
for child in children:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert context.connections_in_use == 1
context._call_soon(gate.set)
thread.join()
print((target / "file").stat().st_size)
""",
    )
    assert out == "300000\n"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@needs_fork
def test_fork_against_busy_threads(run: Callable[..., str]) -> None:
    """A fork while other threads make contexts and download leaves no lock taken in the child."""
    run(
        """
default()
stop = threading.Event()
def busy():
    while not stop.is_set():
        with Context(drivers={"mem": driver}) as context:
            Download(URL, BufferWriter(), context=context)()
        Download(URL, BufferWriter())()
threads = [threading.Thread(target=busy) for _ in range(4)]
for thread in threads: thread.start()
try:
    for _ in range(20):
        child = os.fork()
        if not child:
            signal.alarm(10)
            ok = Download(URL, BufferWriter())().size == len(DATA)
            with Context(drivers={"mem": driver}) as context:
                ok &= Download(URL, BufferWriter(), context=context)().size == len(DATA)
            os._exit(not ok)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
finally:
    stop.set()
    for thread in threads: thread.join()
""",
    )


@needs_fork
def test_processes_of_multiprocessing(run: Callable[..., str]) -> None:
    """Workers that `multiprocessing` forks after a download work, and results and errors come back from them."""
    out = run(
        """
import multiprocessing
def work(url):
    try: return Download(url, BufferWriter(), retries=0, attachment=url)()
    except DownloadError as error: return error
default()
work(URL)
with multiprocessing.get_context("fork").Pool(2) as pool:
    good, bad = pool.map(work, [URL, "mem://elmer:secret@home/gone"])
    pool.close(); pool.join()
print(good.size, type(bad).__name__, bad.url, type(bad.history[-1].error).__name__)
""",
    )
    assert out == "300000 NotFound mem://home/gone NotFound\n"


@needs_fork
@pytest.mark.parametrize("end", ["sys.exit(0)", "os._exit(0)", "gc.collect(); sys.exit(0)"])
@pytest.mark.parametrize("kind", ["batch", "stream"])
def test_fork_inside_of_a_batch_or_a_stream(run: Callable[..., str], tmp_path: Path, kind: str, end: str) -> None:
    """The child of a bare fork leaves what was entered before it at once, and the parent's things to the parent."""
    run(
        f"""
context = default()
def jobs():
    for number in range(6):
        yield Download(URL if number % 2 else "mem://home/hangs", FileWriter(target / str(number)))
def parts(): return sorted(path.name for path in target.iterdir() if path.name.endswith(".part"))
signal.alarm(20)
if {kind == "batch"}:
    entered = Batch(jobs(), concurrency=6)
else:
    entered = Download("mem://home/hangs", FileWriter(target / "0")).stream(hold_back=1024)
before = []
with entered as entered:
    take = iter(entered()) if {kind == "batch"} else entered
    next(take)
    {kind == "stream"} and next(take)
    assert driver.begun.wait(10)
    while len(parts()) != (3 if {kind == "batch"} else 1): time.sleep(0.001)
    before = parts()
    child = os.fork()
    if not child:
        signal.alarm(10)
        try: next(take)
        except RuntimeError as error: assert "before a fork" in str(error)
        else: assert False
    else:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert parts() == before, "the child left them alone"
        assert context.connections_in_use == len(before)
del entered, take
if not child:
    assert Download(URL, BufferWriter())().size == len(DATA)
    {end}
assert parts() == []
""",
    )
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]
