#!/usr/bin/env python3
"""A small UDP server to be started several times on one port, and clients that ask it.

It binds for itself with SO_REUSEPORT, or takes a socket as systemd hands one over (LISTEN_FDS), as
`balancer run --udp -- COMMAND` does.

Usage: udp_server.py [ADDRESS:PORT]                 serve
       udp_server.py ask ADDRESS:PORT CLIENTS TIMES  ask, and say how many clients had one server throughout
"""

import os
import socket
import sys

FIRST_FD = 3


def place(address):
    """Host and port."""
    host, _, port = address.rpartition(":")
    return host, int(port)


def bound(address):
    """The socket that was handed over to this process, or one of its own."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS") == "1":
        return socket.socket(fileno=FIRST_FD)
    own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    # Before bind: afterwards, it is too late.
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    own.bind(place(address))
    return own


def serve(address):
    """Answers each datagram with the PID."""
    server = bound(address)
    while True:
        _, client = server.recvfrom(1500)
        server.sendto(b"%d" % os.getpid(), client)


def ask(address, clients, times):
    """Every client has a port of its own, and asks so many times."""
    sockets = []
    for _ in range(clients):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.settimeout(5)
        client.connect(place(address))
        sockets.append((client, set()))
    for _ in range(times):
        for client, servers in sockets:
            client.send(b"?")
            servers.add(client.recv(64))
    kept = sum(len(servers) == 1 for _, servers in sockets)
    print(f"{kept} of {clients} clients had one server throughout")


if __name__ == "__main__":
    if sys.argv[1:2] == ["ask"]:
        ask(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        serve(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:5000")
