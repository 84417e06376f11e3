#!/usr/bin/env bash
# Readings from an MQTT broker and figures of this machine on one page. Ctrl-C ends it.
#
# Needs Mosquitto and paho-mqtt: apt-get install mosquitto && python3 -m pip install paho-mqtt==2.1.0
set -euo pipefail

# Where Debian keeps it is not on everybody's PATH.
PATH=$PATH:/usr/sbin
command -v mosquitto >/dev/null && python3 -c 'import paho.mqtt.client' 2>/dev/null || {
  echo "this needs: apt-get install mosquitto && python3 -m pip install paho-mqtt==2.1.0" >&2
  exit 1
}
export MQTT_PORT=${MQTT_PORT:-8483}
# Without a configuration Mosquitto listens on loopback, to anybody there.
exec "$(dirname "${BASH_SOURCE[0]}")/../start.sh" dashboard "mqtt_source.py system_source.py sensor.py" \
  8480 8481 8482 "$MQTT_PORT" mosquitto -p "$MQTT_PORT"
