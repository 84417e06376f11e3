"""A made-up sensor: tells the MQTT broker a temperature and a humidity every second."""

import os
import random
import time

import paho.mqtt.client as mqtt

client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
client.connect("127.0.0.1", int(os.environ.get("MQTT_PORT", 1883)))
client.loop_start()

temperature, humidity = 21.5, 45.0
while True:
    # A random step, drawn back to the middle a little.
    temperature += random.gauss(0, 0.2) + (21.5 - temperature) * 0.05
    humidity += random.gauss(0, 0.8) + (45.0 - humidity) * 0.05
    client.publish("sensors/kitchen/temperature", round(temperature, 1))
    client.publish("sensors/kitchen/humidity", round(humidity, 1))
    time.sleep(1)
