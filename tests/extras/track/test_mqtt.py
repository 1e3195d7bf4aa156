"""--mqtt: events arrive, also after the broker was away; no message shows the password."""

import json
import time

import pytest

from extras.track.follower import Follower
from extras.track.mqtt import MqttEvents, read_address
from tests.extras.track.broker import Broker

EVENT = {"time_s": 0.25, "source": "a.mp4", "frame": 3, "event": "cross", "place": "a/b", "direction": "in", "id": 7}


def until(condition, most_s: float = 10.0) -> None:
    end = time.monotonic() + most_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def broker():
    pytest.importorskip("paho.mqtt", reason="needs paho-mqtt")
    broker = Broker()
    yield broker
    broker.close()


def test_events_arrive(broker):
    sink = MqttEvents(read_address(f"mqtt://me:se%40cret@127.0.0.1:{broker.port}/shop/door"))
    sink.write(EVENT)
    sink.write({**EVENT, "id": 8, "name": "Bär"})
    sink.close()
    assert [topic for topic, _ in broker.messages] == ["shop/door/a_b"] * 2
    assert json.loads(broker.messages[0][1]) == EVENT and json.loads(broker.messages[1][1])["name"] == "Bär"
    assert broker.logins[0][1:] == ["me", "se@cret"]


def test_password_of_the_environment(broker, monkeypatch):
    monkeypatch.setenv("MQTT_PASSWORD", "hidden")
    MqttEvents(read_address(f"mqtt://me@127.0.0.1:{broker.port}/t")).close()
    MqttEvents(read_address(f"mqtt://127.0.0.1:{broker.port}/t")).close()
    assert [login[1:] for login in broker.logins] == [["me", "hidden"], []]


def test_a_broker_that_was_away(broker, caplog):
    sink = MqttEvents(read_address(f"mqtt://127.0.0.1:{broker.port}/t"))
    broker.close()
    until(lambda: "broke off" in caplog.text)
    sink.write(EVENT)
    back = Broker(port=broker.port)
    until(lambda: back.messages)
    sink.close()
    assert json.loads(back.messages[0][1]) == EVENT and "could not be sent" not in caplog.text
    back.close()


def test_what_was_not_sent_is_counted(broker, caplog, monkeypatch):
    monkeypatch.setattr("extras.track.mqtt.LAST_S", 0.1)
    sink = MqttEvents(read_address(f"mqtt://127.0.0.1:{broker.port}/t"))
    broker.close()
    until(lambda: "broke off" in caplog.text)
    sink.write(EVENT)
    sink.close()
    assert "1 event could not be sent" in caplog.text


@pytest.mark.parametrize(("code", "words"), [(5, "Not authorized"), (None, "no connection: .*refused")])
def test_no_message_shows_the_password(broker, code, words, caplog):
    if code is None:
        broker.close()
    broker.refuse = code
    with pytest.raises(ConnectionError, match=words) as caught:
        MqttEvents(read_address(f"mqtt://me:secret@127.0.0.1:{broker.port}/t"))
    assert "--mqtt mqtt://***@127.0.0.1" in str(caught.value) and "secret" not in str(caught.value) + caplog.text


@pytest.mark.parametrize(
    "text", ["broker/topic", "http://host/topic", "mqtt://host", "mqtt:///t", "mqtt://host:99999/t", "mqtt://h/a/#"]
)
def test_addresses_that_are_wrong(text):
    with pytest.raises(ValueError, match="--mqtt: expected mqtt://.*, found '"):
        read_address(text)


@pytest.mark.parametrize(
    ("text", "scheme", "port", "topic"),
    [("mqtt://host/a/b/", "mqtt", 1883, "a/b"), ("mqtts://[::1]:99/t", "mqtts", 99, "t")],
)
def test_addresses(text, scheme, port, topic):
    found = read_address(text)
    assert (found.scheme, found.port, found.topic, found.user, found.password) == (scheme, port, topic, None, None)


def test_events_need_a_place():
    from engine import options

    with pytest.raises(ValueError, match="--mqtt: expected with --lines, --zones or --watch"):
        Follower.from_options(options.from_kwargs("detect", {"track": True, "mqtt": "mqtt://host/t"}))
