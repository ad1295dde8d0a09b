#!/usr/bin/env python3
"""A small UDP server to be started several times on one port, and clients that ask it.

Usage: udp_server.py [ADDRESS:PORT]                 serve
       udp_server.py ask ADDRESS:PORT CLIENTS TIMES  ask, and say how many clients had one server throughout
"""

import os
import socket
import sys


def place(address):
    """Host and port."""
    host, _, port = address.rpartition(":")
    return host, int(port)


def serve(address):
    """Answers each datagram with the PID."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    # Before bind: afterwards, it is too late.
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.bind(place(address))
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
