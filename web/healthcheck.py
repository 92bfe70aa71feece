"""The container's health check: exit 0 when GET /healthz answers 200, else 1.

Run as `python3 -I -S`: no site, no environment, and only the C module `_socket`. Importing
urllib, as such checks often do, costs several times as much CPU.
"""

import _socket

TIMEOUT_S = 2

connection = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
connection.settimeout(TIMEOUT_S)
try:
    connection.connect(("127.0.0.1", 8000))
    connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
    # The status line fits in the first segment: "HTTP/1.1 200 OK".
    status = connection.recv(64).partition(b"\r\n")[0]
    healthy = status.split(b" ")[1:2] == [b"200"]
    print(status.decode(errors="replace"))
except OSError as error:
    print(error)
    healthy = False
raise SystemExit(0 if healthy else 1)
