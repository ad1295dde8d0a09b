"""Answers each line with its PID. Takes its socket from systemd's hands, or binds for itself.

Usage: line.py handed [defer] | line.py bind PORT [alone]; then, of these words:
gate=PATH: first reads a file, which may be a FIFO; notify: says READY=1 (sd_notify); deaf: ignores
SIGTERM; talk: prints a line for each one answered.
"""

import os
import signal
import socket
import sys
import threading

options = dict(word.partition("=")[::2] for word in sys.argv[2:])


def handed():
    names = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
    listener = socket.socket(fileno=3)
    if "defer" in sys.argv:
        # The kernel keeps a connection half-open until its first byte.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 60)
    print(*("%s=%s" % (name, os.environ.get(name)) for name in names), flush=True)
    print("input %s, still inherited: %s" % (os.readlink("/proc/self/fd/0"), os.get_inheritable(3)), flush=True)
    return listener


def bound():
    listener = socket.socket()
    if "alone" not in sys.argv:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", int(sys.argv[2])))
    listener.listen()
    return listener


def serve(connection):
    with connection, connection.makefile("rw") as lines:
        for _ in lines:
            if "talk" in options:
                print("asked", flush=True)
            print(os.getpid(), file=lines, flush=True)


listener = handed() if sys.argv[1] == "handed" else bound()
print("complaint of %d" % os.getpid(), file=sys.stderr, flush=True)
if "deaf" in options:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "gate" in options:
    open(options["gate"]).read()
if "notify" in options:
    name = "\0" + os.environ["NOTIFY_SOCKET"][1:]
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"STATUS=up\nREADY=1\n", name)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
