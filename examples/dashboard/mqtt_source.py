"""Hears `sensors/<source>/<metric>` from an MQTT broker, and publishes each reading."""

import json
import os
import sys

import paho.mqtt.client as mqtt

from dashboard import publish


def on_connect(client, userdata, flags, reason, properties):
    client.subscribe("sensors/+/+")


def on_subscribe(client, userdata, mid, reasons, properties):
    print("listening to MQTT", flush=True)


def on_message(client, userdata, message):
    _, source, metric = message.topic.split("/")
    try:
        value = json.loads(message.payload)
    except ValueError:
        # MQTT knows bytes only: what is no JSON is passed on as text.
        value = message.payload.decode(errors="replace")
    publish("mqtt", source=source, metric=metric, value=value)


client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
client.connect("127.0.0.1", int(os.environ.get("MQTT_PORT", 1883)))
# Comes back by itself when the broker does.
sys.exit(client.loop_forever())
