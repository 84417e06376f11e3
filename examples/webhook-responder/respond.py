"""A backend that is called: pathcast posts what clients of /ws/api send, and each has what is answered.

It keeps no connection and no session, so any number of it may stand behind a load balancer. Python's
own library is all it needs.
"""

import base64
import hashlib
import hmac
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = int(os.environ.get("WEBHOOK_PORT", "8883"))
KEY = base64.b64decode(os.environ["WEBHOOK_SECRET"].removeprefix("whsec_"))
AGE_SECONDS_MAX = 300  # whoever overheard a request cannot repeat it later
STARTED = time.monotonic()


def is_signed(headers, body):
    """Checks `v1ce`, the signature that covers the headers too: they say whose message it is."""
    names = sorted(name.lower() for name in headers if name.lower().startswith("ce-"))
    lines = "".join(f"{name}:{headers[name]}\n" for name in names)
    at = headers.get("webhook-timestamp", "")
    signed = f"{headers.get('webhook-id')}.{at}.{lines}".encode() + body
    wanted = "v1ce," + base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
    # One for each secret in use; as bytes, since a stranger may send any.
    signatures = headers.get("webhook-signature", "").encode().split(b" ")
    is_known = any(hmac.compare_digest(wanted.encode(), one) for one in signatures)
    return is_known and at.isdecimal() and abs(time.time() - int(at)) < AGE_SECONDS_MAX


def answer_to(text):
    """None: no answer."""
    try:
        request = json.loads(text)
    # The latter: JSON nested too deeply.
    except (ValueError, RecursionError) as error:
        print("error: not JSON, not answered:", error, file=sys.stderr)
        return None
    if isinstance(request, dict) and request.get("action") == "get_status":
        return {
            "status": "online",
            "uptime": round(time.monotonic() - STARTED, 1),
            "backend": os.getpid(),
        }
    return request


class Responder(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept
    timeout = 60  # but not for ever

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if not is_signed(self.headers, body):
            return self.say(401, "not signed with my secret")
        kind, session = self.headers["ce-type"], self.headers["ce-sessionid"]
        print(f"{session[:20]}… {kind.removeprefix('pathcast.')}", flush=True)
        if kind != "pathcast.message":
            return self.say(204)  # to a connect: come in
        answer = answer_to(body)
        if answer is None:
            return self.say(204)
        self.say(200, json.dumps(answer, ensure_ascii=False), "application/json")

    def say(self, status, text="", content_type="text/plain"):
        body = text.encode()
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # pathcast may open as many connections at once


with Server(("127.0.0.1", PORT), Responder) as server:
    print("answering for /ws/api", flush=True)
    server.serve_forever()
