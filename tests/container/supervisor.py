#!/usr/bin/env python3
"""A Supervisor on loopback, as far as the image of the Home Assistant app sees it: it names a broker and the page's port.

    supervisor.py PORT TOKEN BROKER_PORT INGRESS_ADDRESS INGRESS_PORT
"""

import http.server
import json
import sys

port, token, broker, ingress_address, ingress_port = sys.argv[1:]
ANSWERS = {
    "/services/mqtt": {
        "addon": "core_mosquitto", "host": "127.0.0.1", "port": int(broker), "ssl": False, "username": "addons",
        "password": "s3cret-of-the-broker", "protocol": "3.1.1",
    },
    "/addons/self/info": {
        "ip_address": ingress_address, "ingress_port": int(ingress_port), "ingress_entry": "/api/hassio_ingress/abc",
        "ingress_url": "/api/hassio_ingress/abc/",
    },
}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        data = ANSWERS.get(self.path)
        if self.headers.get("Authorization") != f"Bearer {token}":
            status, answer = 401, {"result": "error", "message": "401: Unauthorized"}
        elif data is None:
            status, answer = 404, {"result": "error", "message": "404: Not Found"}
        else:
            status, answer = 200, {"result": "ok", "data": data}
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
