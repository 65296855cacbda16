"""A way to an S3 on loopback that loses, refuses and delays what it is told to.

    python faulty_proxy.py PORT_OF_S3

Prints its own port. `PUT /_faults` with a JSON list says what becomes of the next requests, one
each: "ok", a status such as 503, "lost" (done, and the answer is lost), "cut" (not done, and no
answer), or seconds to wait. After those, the last one holds for ever if the list ends with "…".
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

faults: list = []
lock = threading.Lock()
ERROR = "<Error><Code>{}</Code><Message>try again</Message></Error>"


def next_fault():
    with lock:
        if len(faults) == 2 and faults[1] == "…":
            return faults[0]
        return faults.pop(0) if faults else "ok"


class Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path == "/_faults":
            with lock:
                faults[:] = json.loads(body)
            self.answer(200, [], b"")
            return
        fault = next_fault()
        if isinstance(fault, float):
            time.sleep(fault)
        elif isinstance(fault, int):
            self.answer(fault, [], ERROR.format("SlowDown" if fault == 503 else "X").encode())
            return
        if fault != "cut":
            status, headers, data = self.forward(body)
        if fault in ("cut", "lost"):
            self.close_connection = True
            self.connection.close()
            return
        self.answer(status, headers, data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

    def forward(self, body):
        connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=30)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, answer.getheaders(), data

    def answer(self, status, headers, data):
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    print(server.server_port, flush=True)
    server.serve_forever()
