"""A WSGI application that says who answered."""

import os


def app(environ, start_response):
    """Answers every request alike."""
    client = f"{environ['REMOTE_ADDR']}:{environ['REMOTE_PORT']}"
    body = f"Client [{client}] received msg from Server PID: [{os.getpid()}]\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
