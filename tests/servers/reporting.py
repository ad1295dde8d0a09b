"""Says how many milliseconds of work it has to do, where balancer's `--load reported` reads it."""

import mmap
import os
import socket
import struct
import threading
import time

WORD = mmap.mmap(int(os.environ["BALANCER_LOAD_FD"]), 8)
lock = threading.Lock()
load = 0


def add(work):
    global load
    with lock:
        load += work
        struct.pack_into("=Q", WORD, 0, load)


def serve(connection):
    with connection:
        work = int(connection.recv(1000).split()[1].strip(b"/"))
        add(work)
        time.sleep(work / 1000)
        add(-work)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nServer with PID: [%d]\n" % os.getpid())


listener = socket.socket(fileno=3)
while True:
    threading.Thread(target=serve, args=listener.accept()[:1]).start()
