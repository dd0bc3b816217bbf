"""An ordinary confluent-kafka client that does once what clients do, and
prints what it was told, one JSON object a line (type Told of package
tests/clients, which starts it and knows the arguments).
"""

import json
import sys
import time

from confluent_kafka import Consumer, Producer, TopicPartition, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource

PATIENCE_SECONDS = 45

args = dict(word.split("=", 1) for word in sys.argv[1:])
topic = args["topic"]
base = {"bootstrap.servers": args["bootstrap"], "client.id": args["client"]}


def tell(op, step="", value="", offset=None, epoch=None, at=0, identity=""):
    def shown(number):
        return -1 if number is None or number < 0 else number

    line = {"op": op, "step": step, "value": value, "offset": shown(offset), "epoch": shown(epoch), "time": at, "id": identity}
    print(json.dumps(line), flush=True)


def produce(op, acks, idempotent):
    producer = Producer({**base, "acks": acks, "enable.idempotence": idempotent})
    failed = []

    def delivered(error, message):
        if error is not None:
            failed.append(error)
        else:
            tell(op, value=message.value().decode(), offset=message.offset())

    for n in range(int(args["records"])):
        producer.produce(topic, f"{args['client']}/{args['tag']}/{op}/{n}", partition=0, on_delivery=delivered)
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


def member(op, step, count):
    """Handles count records, commits the position after the last, and leaves."""
    protocol = op.removeprefix("group ")
    more = {"group.protocol": "consumer"} if protocol == "consumer" else {}
    consumer = reader(**{"group.id": f"{args['client']}-{args['tag']}-{protocol}", **more})
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
    for text in args["times"].split(","):
        at = consumer.offsets_for_times([TopicPartition(topic, 0, int(text))], timeout=PATIENCE_SECONDS)[0]
        tell("offset by time", offset=at.offset, epoch=at.leader_epoch, at=int(text))
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
        for acks in ("0", "1", "all"):
            produce("produce acks=" + acks, acks, False)
        produce("produce idempotent", "all", True)
        return
    for op in args["groups"].split(","):
        member(op, "first", int(args["half"]))
        member(op, "second", int(args["total"]) - int(args["half"]))
    assign()
    identities()


if __name__ == "__main__":
    main()
