"""A webhook backend that believes only what a public Standard Webhooks library believes.

Arguments: the secrets it knows. Prints its port. Answers a message with what it found of it.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks.webhooks import Webhook, WebhookVerificationError


class Backend(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        found = [self.believes(secret, body) for secret in sys.argv[1:]]
        kind = self.headers["ce-type"].removeprefix("pathcast.")
        answer = f"{json.dumps(found)} {kind} {body.decode()}".encode()
        self.send_response(200 if all(found) or kind == "message" else 403)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def believes(self, secret, body):
        try:
            Webhook(secret).verify(body, dict(self.headers))
        except WebhookVerificationError:
            return False
        except json.JSONDecodeError:
            # It looks at the body only after it has believed the signature.
            return True
        return True

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Backend)
print(server.server_port, flush=True)
server.serve_forever()
