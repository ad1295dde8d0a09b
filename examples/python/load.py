#!/usr/bin/env python3
"""Requests at random times, each over a connection of its own, whether earlier ones were answered or not.

Usage: load.py ADDRESS:PORT PER_SECOND SECONDS
"""

import asyncio
import random
import sys


async def request(host, port):
    """Asks once, and waits for the whole answer."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET / HTTP/1.1\r\nHost: load\r\nConnection: close\r\n\r\n")
        await reader.read()
        writer.close()
    except OSError as error:
        print(f"lost: {error}", file=sys.stderr)


async def main(address, rate, seconds):
    """A Poisson process: the time from one request to the next is exponential."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    due = loop.time()
    end = due + seconds
    asked = set()
    while due < end:
        await asyncio.sleep(due - loop.time())
        task = asyncio.create_task(request(host.strip("[]"), int(port)))
        asked.add(task)
        task.add_done_callback(asked.discard)
        due += random.expovariate(rate)
    await asyncio.gather(*asked)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))
