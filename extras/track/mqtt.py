"""Events by MQTT, as they happen, by the package paho-mqtt. Nothing is sent unless --mqtt names a broker."""

import json
import os
import re
import threading
import time
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from extras.track.events import ordered
from utils.console.text import counted
from utils.logger import LOGGER
from utils.sources.urls import shown

PORTS = {"mqtt": 1883, "mqtts": 8883}  # the second one is encrypted, with the certificates of this system
EXAMPLE = "mqtt://[USER[:PASSWORD]@]HOST[:PORT]/TOPIC, or mqtts://..."
PASSWORD_VARIABLE = "MQTT_PASSWORD"
CONNECT_S, LAST_S = 10.0, 5.0  # to connect, and for what is still to be sent at the end
MOST_WAITING = 10_000  # events that wait while the broker is away


class Address(NamedTuple):
    """Where events go. `text` is the address as it may be printed."""

    text: str
    scheme: str
    host: str
    port: int
    topic: str
    user: str | None
    password: str | None


def read_address(text: str) -> Address:
    """Return the Address of a text; the password may also be in the environment, as MQTT_PASSWORD."""
    parts = urlsplit(text)
    topic = unquote(parts.path.strip("/"))
    try:
        port = parts.port or PORTS.get(parts.scheme, 0)
    except ValueError:
        port = 0
    has_wildcard = "#" in text or re.search(r"[#+\x00]", topic)  # Behind a bare # there is no fragment to see.
    if has_wildcard or not (port and parts.hostname and topic):
        raise ValueError(f"--mqtt: expected {EXAMPLE}, found '{shown(text)}'")
    password = unquote(parts.password) if parts.password else os.environ.get(PASSWORD_VARIABLE)
    user = unquote(parts.username) if parts.username else None
    return Address(shown(text), parts.scheme, parts.hostname, port, topic, user, password if user else None)


def load_library():
    """Return paho-mqtt's module of clients. ImportError with the pip line where it is missing."""
    try:
        from paho.mqtt import client
    except ImportError as error:
        raise ImportError(f"detect.py --mqtt needs the package paho-mqtt: pip install paho-mqtt ({error})") from None
    return client


class MqttEvents:
    """A sink that publishes each event as JSON under TOPIC/PLACE, at least once, also after the broker was away."""

    def __init__(self, address: Address):
        self.address, self.mqtt = address, load_library()
        self.answer, self.refusal, self.is_closing = threading.Event(), "", False
        self.queued = self.sent = self.lost = 0
        self.client = self._client()
        try:
            self.client.connect(address.host, address.port, keepalive=30)
        except (OSError, ValueError) as error:
            raise ConnectionError(f"--mqtt {address.text}: no connection: {error}") from None
        self.client.loop_start()
        if not self.answer.wait(CONNECT_S) or self.refusal:
            self.client.loop_stop()
            why = self.refusal or f"no answer within {CONNECT_S:g} s"
            raise ConnectionError(f"--mqtt {address.text}: no connection: {why}")

    def _client(self):
        client = self.mqtt.Client(self.mqtt.CallbackAPIVersion.VERSION2)
        if self.address.user:
            client.username_pw_set(self.address.user, self.address.password)
        if self.address.scheme == "mqtts":
            client.tls_set()
        client.max_queued_messages_set(MOST_WAITING)
        client.reconnect_delay_set(1, 30)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_publish = self._on_publish
        return client

    def _on_connect(self, client, data, flags, reason, properties) -> None:
        self.refusal = str(reason) if reason.is_failure else ""
        self.answer.set()

    def _on_disconnect(self, client, data, flags, reason, properties) -> None:
        if not self.is_closing and not self.refusal:
            LOGGER.warning(
                f"--mqtt {self.address.text}: the connection broke off ({reason}); events wait for its return"
            )

    def _on_publish(self, *details) -> None:
        self.sent += 1  # The broker has it.

    def write(self, event: dict) -> None:
        place = re.sub(r"[#+/\x00]", "_", event["place"])
        text = json.dumps(ordered(event), ensure_ascii=False)
        message = self.client.publish(f"{self.address.topic}/{place}", text, qos=1)
        if message.rc == self.mqtt.MQTT_ERR_QUEUE_SIZE:
            self.lost += 1
        else:
            self.queued += 1

    def close(self) -> None:
        """Wait a little for what is still to be sent, and say how much was not."""
        end = time.monotonic() + LAST_S
        while self.sent < self.queued and time.monotonic() < end:
            time.sleep(0.02)
        self.is_closing = True
        self.client.disconnect()
        self.client.loop_stop()
        if unsent := self.queued - self.sent + self.lost:
            LOGGER.warning(f"--mqtt {self.address.text}: {counted(unsent, 'event')} could not be sent")
