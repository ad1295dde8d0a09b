#!/usr/bin/env python3
"""A small HTTP server to be started several times on one port: it says who answered.

Usage: server.py [ADDRESS:PORT [SECONDS]]; each request takes so many seconds, one at a time.

It binds for itself with SO_REUSEPORT, or takes a listening socket as systemd hands one over
(LISTEN_FDS), as `balancer run -- COMMAND` does.
"""

import asyncio
import os
import signal
import socket
import sys
import time

FIRST_FD = 3


def listener(address):
    """The socket that was handed over to this process, or one of its own."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS") == "1":
        return socket.socket(fileno=FIRST_FD)
    host, _, port = address.rpartition(":")
    own = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # Before bind: afterwards, it is too late.
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    own.bind((host, int(port)))
    own.listen(1024)
    return own


async def answer(reader, writer):
    """Answers one request and closes."""
    work = float(sys.argv[2]) if len(sys.argv) > 2 else 0
    try:
        while (line := await reader.readline()) not in (b"\r\n", b""):
            pass
        if work:
            time.sleep(work)
        client = "%s:%d" % writer.get_extra_info("peername")[:2]
        body = f"Client [{client}] received msg from Server PID: [{os.getpid()}]\n"
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write((head + body).encode())
        await writer.drain()
    except (ConnectionError, asyncio.CancelledError):
        pass
    finally:
        writer.close()


async def main(address):
    """Serves until SIGINT or SIGTERM."""
    server = await asyncio.start_server(answer, sock=listener(address))
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    print(f"Server with PID: [{os.getpid()}] is running", flush=True)
    await stop.wait()
    server.close()
    await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8080"))
