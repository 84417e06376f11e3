"""Publishes msgs through the gateway's HTTP API."""

import json
import urllib.error
import urllib.request


def publish(api, path, msg):
    """With a `_session` in the msg it goes to that client alone. Whether it could be delivered."""
    request = urllib.request.Request(
        f"{api}/v1/publish{path}",
        data=json.dumps(msg, ensure_ascii=False).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        urllib.request.urlopen(request, timeout=5).close()
    except urllib.error.HTTPError as error:
        if error.code != 410:
            raise
        return False  # the client has gone meanwhile
    return True
