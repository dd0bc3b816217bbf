"""An ordinary confluent-kafka client that does once what clients do, and
prints what it was told.
"""

import sys
import time

from confluent_kafka import Consumer, Producer, TopicPartition, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource

from told import PATIENCE_SECONDS, args, members, producing, tell, times, topic, values

base = {"bootstrap.servers": args["bootstrap"], "client.id": args["client"]}


def produce(op, acks, idempotent):
    producer = Producer({**base, "acks": acks, "enable.idempotence": idempotent})
    failed = []

    def delivered(error, message):
        if error is not None:
            failed.append(error)
        else:
            tell(op, value=message.value().decode(), offset=message.offset())

    for value in values(op):
        producer.produce(topic, value, partition=0, on_delivery=delivered)
    if producer.flush(PATIENCE_SECONDS) > 0 or failed:
        sys.exit(f"{op}: not all was delivered: {failed}")


def reader(**more):
    return Consumer({**base, "auto.offset.reset": "earliest", "enable.auto.commit": False, **more})


def consume(consumer, op, step, count):
    """Tells of the next records and returns the offset of the last."""
    deadline, last = time.monotonic() + PATIENCE_SECONDS, None
    for n in range(count):
        while True:
            if time.monotonic() > deadline:
                sys.exit(f"{op} {step}: {n} of {count} records")
            message = consumer.poll(0.2)
            if message is None:
                continue
            if message.error():
                print(f"{op} {step}: {message.error()}", file=sys.stderr)
                continue
            break
        last = message.offset()
        tell(op, step, message.value().decode(), last, message.leader_epoch())
    return last


def member(op, step, group, count):
    """Handles count records, commits the position after the last, and leaves."""
    more = {"group.protocol": "consumer"} if op == "group consumer" else {}
    consumer = reader(**{"group.id": group, **more})
    consumer.subscribe([topic])
    last = consume(consumer, op, step, count)
    consumer.commit(offsets=[TopicPartition(topic, 0, last + 1)], asynchronous=False)
    at = consumer.committed([TopicPartition(topic, 0)], timeout=PATIENCE_SECONDS)[0]
    tell(op, step + " committed", offset=at.offset, epoch=at.leader_epoch)
    consumer.close()


def assign():
    """Reads from a position of its own, and asks for positions by time."""
    consumer = reader(**{"group.id": "unused-" + args["client"]})
    consumer.assign([TopicPartition(topic, 0, int(args["from"]))])
    consume(consumer, "assign", "", int(args["rest"]))
    for time_millis in times():
        at = consumer.offsets_for_times([TopicPartition(topic, 0, time_millis)], timeout=PATIENCE_SECONDS)[0]
        tell("offset by time", offset=at.offset, epoch=at.leader_epoch, at=time_millis)
    consumer.close()


def identities():
    admin = AdminClient(base)
    listed = admin.list_topics(topic, timeout=PATIENCE_SECONDS)
    tell("cluster id", identity=listed.cluster_id)
    for node in listed.brokers:
        tell("node id", identity=str(node))
    tell("leader", identity=str(listed.topics[topic].partitions[0].leader))
    described = admin.describe_topics(TopicCollection([topic]))[topic].result(PATIENCE_SECONDS)
    tell("topic id", identity=str(described.topic_id))
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    settings = admin.describe_configs([resource])[resource].result(PATIENCE_SECONDS)
    tell("setting", identity=settings["cleanup.policy"].value)


def main():
    if args["write"] == "true":
        for op, acks, idempotent in producing():
            produce(op, acks, idempotent)
        return
    for op, step, group, count in members():
        member(op, step, group, count)
    assign()
    identities()


if __name__ == "__main__":
    main()
