"""Run the cells of a notebook in a real kernel: ``python -m tests.acceptance.run_notebook CELLS``.

*CELLS* is a JSON array: the source of each cell, or ``[source, "interrupt"]`` for one that is interrupted once the
server was asked for ``/slow``, or ``"restart"``. In each, ``URL`` stands for a server: it has ``/file``, 300,000 bytes,
and ``/slow``, the beginning of which it sends. What each cell printed, or the name and the message of what it raised,
is printed as a JSON array; then how many connections are open for ``/slow``.
"""

from __future__ import annotations

import asyncio
import json
import sys
import warnings
from typing import TYPE_CHECKING

from tests.servers.http import head, http_server

if TYPE_CHECKING:
    from tests.servers.http import Exchange, HttpServer

FILE = bytes(300_000)
PATIENCE = 30


async def site(exchange: Exchange) -> None:
    """Answer as the server."""
    if exchange.target == "/slow":
        await exchange.send(head(200, [("Content-Length", str(len(FILE)))]), FILE[:200_000])
        await exchange.stall()
    await exchange.respond(200, FILE)


async def run(cells: list[str | list[str]], server: HttpServer) -> list[str]:
    """Run *cells* one after another in one kernel; return what they say."""
    import nbformat
    from nbclient import NotebookClient

    said = []
    client = NotebookClient(nbformat.v4.new_notebook(), timeout=PATIENCE, allow_errors=True)
    async with client.async_setup_kernel():
        for cell in cells:
            if cell == "restart":
                await client.km.restart_kernel(now=True)
                await client.kc.wait_for_ready(PATIENCE)
                continue
            source, interrupt = (cell, False) if isinstance(cell, str) else (cell[0], True)
            client.nb.cells.append(nbformat.v4.new_code_cell(source.replace("URL", repr(server.url("")))))
            executing = asyncio.create_task(client.async_execute_cell(client.nb.cells[-1], len(client.nb.cells) - 1))
            if interrupt:
                asked = len(slow(server))
                await server.until(lambda server: len(slow(server)) > asked, PATIENCE)  # noqa: B023
                await client.km.interrupt_kernel()
                client.kc.kernel_info()  # a kernel heeds the interrupt of an `await` when its loop wakes next
            said.append("".join(map(told, (await executing).outputs)))
    return said


def slow(server: HttpServer) -> list[Exchange]:
    """Return the requests for ``/slow``."""
    return [each for each in server.requests if each.target == "/slow"]


def told(output: dict[str, str]) -> str:
    """Return what one output of a cell says."""
    if output["output_type"] == "error":
        return f"{output['ename']}: {output['evalue']}"
    return output.get("text") or output["data"]["text/plain"]  # type: ignore[index]


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # those of the notebook's own libraries
    with http_server(site) as server:
        said = asyncio.run(run(json.loads(sys.argv[1]), server))
        server.wait_until(lambda server: not server.open)  # the kernel is gone
    sys.stdout.write(json.dumps(said))
