"""Answers every GET with 300 bytes, over both families: `serve.py PORT`."""

import socket
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

_BODY = b"x" * 300


class _Server(HTTPServer):
    address_family = socket.AF_INET6


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(_BODY)))
        self.end_headers()
        self.wfile.write(_BODY)

    def log_message(self, *_: object) -> None:
        pass


_Server(("::", int(sys.argv[1])), _Answer).serve_forever()
