"""An ordinary confluent-kafka client that writes down what it was told (module history)."""

import sys
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

import history
from history import args


def settings(client, **more):
    base = {"bootstrap.servers": args["bootstrap"], "client.id": client.name}
    base["error_cb"] = lambda error: print(f"error: {error!r}", file=sys.stderr)
    return {**base, **more, **history.conf}


def produce(client):
    idempotent, acks = client.begin_producer()
    producer = Producer(settings(client, **{"enable.idempotence": idempotent, "acks": acks, "linger.ms": 5}))
    for ahead, record in client.records():
        producer.poll(ahead)
        if record is None:
            continue
        topic, partition, key, value, identity = record
        try:
            producer.produce(topic, value, key, partition, on_delivery=delivered(client, identity))
        except (BufferError, KafkaException) as error:
            client.emit("fail", payload=identity, error=str(error), definite=True)
            producer.poll(0.1)
    producer.flush(60)


def delivered(client, identity):
    def told(error, message):
        if error is not None:
            client.emit("fail", payload=identity, error=str(error))
        else:
            client.acknowledged(identity, message.offset())

    return told


def consumed(client, message):
    """Whether it is a record."""
    if message is None:
        return False
    if message.error():
        print(f"error: {message.error()}", file=sys.stderr)
        return False
    client.consumed(message.topic(), message.partition(), message.offset(), message.value())
    return True


def read_in_group(client):
    group = args["group"]
    client.emit("start", role="group", group=group)
    consumer = Consumer(settings(client, **{"group.id": group, "enable.auto.commit": False, "auto.offset.reset": "earliest"}))
    read = {}  # (topic, partition) -> next offset, of what this member has handled

    def commit():
        at = [TopicPartition(t, p, o) for (t, p), o in read.items()]
        if not at:
            return
        try:
            consumer.commit(offsets=at, asynchronous=False)
            problem = {}
        except KafkaException as error:
            problem = {"error": str(error)}
        for tp in at:
            client.emit("commit", group=group, topic=tp.topic, partition=tp.partition, offset=tp.offset, **problem)

    def assigned(_, partitions):
        for tp in partitions:
            client.emit("position", topic=tp.topic, partition=tp.partition)

    def revoked(_, partitions):
        commit()
        lost(_, partitions)

    def lost(_, partitions):
        for tp in partitions:
            read.pop((tp.topic, tp.partition), None)

    consumer.subscribe(client.topics, on_assign=assigned, on_revoke=revoked, on_lost=lost)
    due = time.monotonic() + 1
    while client.reading(consumer.assignment()):
        message = consumer.poll(0.1)
        if consumed(client, message):
            read[message.topic(), message.partition()] = message.offset() + 1
        if time.monotonic() >= due:
            commit()
            due = time.monotonic() + 1
    commit()
    consumer.close()


def read_assigned(client):
    client.emit("start", role="assign")
    consumer = Consumer(settings(client, **{"group.id": "unused-" + client.name, "enable.auto.commit": False}))
    at = []
    for topic, partition in client.all:
        low, _ = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)
        client.emit("position", topic=topic, partition=partition, offset=low)
        at.append(TopicPartition(topic, partition, low))
    consumer.assign(at)
    while client.reading(consumer.assignment()):
        consumed(client, consumer.poll(0.1))
    consumer.close()


if __name__ == "__main__":
    history.run({"producer": produce, "group": read_in_group, "assign": read_assigned})
