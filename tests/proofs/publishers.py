"""Publishers with numbered messages, each a thread, and what each of its messages was answered."""

import dataclasses
import http.client
import json
import threading
import time

# A pod that leaves, or does not know the path, has certainly not sent it (docs/api.md): the next try goes to the next pod.
NOT_SENT = (404, 429, 503)
TRIES = 40
RETRY_PAUSE_S = 0.05


@dataclasses.dataclass
class Receipt:
    begun_at: float
    answered_at: float
    # Of each try; 0 stands for no answer. The last one counts.
    statuses: list


class Publisher:
    """Publishes one message after the other, `per_second`, until it is told to stop."""

    def __init__(self, name, address, path, per_second, tries=TRIES):
        self.name, self.address, self.path, self.pause_s, self.tries = name, address, path, 1 / per_second, tries
        self.receipts, self.is_over = [], threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        due = time.monotonic()
        while not self.is_over.wait(max(0, due - time.monotonic())):
            self.publish(len(self.receipts))
            due = max(due + self.pause_s, time.monotonic() - 1)

    def publish(self, number):
        begun_at, statuses = time.monotonic(), []
        while not statuses or (statuses[-1] in NOT_SENT and len(statuses) < self.tries):
            if statuses:
                time.sleep(RETRY_PAUSE_S)
            begun_at = time.monotonic()
            statuses.append(publish(self.address, self.path, f"{self.name} {number} {begun_at:.6f}"))
        self.receipts.append(Receipt(begun_at, time.monotonic(), statuses))

    def stop(self):
        """Ends it with one message more, which all who are open now have to get; its number."""
        self.is_over.set()
        self.thread.join()
        self.publish(len(self.receipts))
        return len(self.receipts) - 1


def publish(address, path, payload):
    """The status of the answer; 0 where there is none. A connection for each: a pod that leaves then never meets a request on one it has just closed."""
    connection = http.client.HTTPConnection(*address, timeout=10)
    try:
        body = json.dumps({"payload": payload})
        connection.request("POST", f"/v1/publish{path}", body, {"content-type": "application/json", "connection": "close"})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
