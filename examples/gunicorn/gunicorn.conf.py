"""gunicorn with one worker, to be started several times on one port.

With several workers one gunicorn would open one socket for all of them, and there would be nothing
to steer.
"""

bind = "127.0.0.1:8080"
reuse_port = True
workers = 1
