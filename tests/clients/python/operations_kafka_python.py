"""An ordinary kafka-python client that does once what clients do, and prints what it was
told.
"""

import sys
import time

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.structs import OffsetAndMetadata

from told import PATIENCE_SECONDS, args, members, producing, tell, times, topic, values

base = {"bootstrap_servers": args["bootstrap"].split(","), "client_id": args["client"]}
partition = TopicPartition(topic, 0)


def produce(op, acks, idempotent):
    producer = KafkaProducer(**base, acks="all" if acks == "all" else int(acks), enable_idempotence=idempotent)
    sent = [(value, producer.send(topic, value.encode(), partition=0)) for value in values(op)]
    producer.flush(PATIENCE_SECONDS)
    for value, answer in sent:
        told = answer.get(PATIENCE_SECONDS).offset
        tell(op, value=value, offset=None if acks == "0" else told)  # nobody told the library, which counts from 0
    producer.close()


def reader(**more):
    return KafkaConsumer(**base, auto_offset_reset="earliest", enable_auto_commit=False, **more)


def consume(consumer, op, step, count):
    """Tells of the next records and returns the last one."""
    deadline, last, n = time.monotonic() + PATIENCE_SECONDS, None, 0
    while n < count:
        if time.monotonic() > deadline:
            sys.exit(f"{op} {step}: {n} of {count} records")
        # Long: where poll comes to its end while the member joins, 3.0.12 may never go on.
        for record in consumer.poll(PATIENCE_SECONDS * 1000, max_records=count - n).get(partition, []):
            tell(op, step, record.value.decode(), record.offset, record.leader_epoch)
            last, n = record, n + 1
    return last


def member(op, step, group, count):
    """Handles count records, commits the position after the last, and leaves."""
    consumer = reader(group_id=group)
    consumer.subscribe([topic])
    last = consume(consumer, op, step, count)
    consumer.commit({partition: OffsetAndMetadata(last.offset + 1, "", -1)})
    tell(op, step + " committed", offset=consumer.committed(partition))
    consumer.close(autocommit=False)


def assign():
    """Reads from a position of its own, and asks for positions by time."""
    consumer = reader(group_id=None)
    consumer.assign([partition])
    consumer.seek(partition, int(args["from"]))
    consume(consumer, "assign", "", int(args["rest"]))
    for time_millis in times():
        at = consumer.offsets_for_times({partition: time_millis})[partition]
        tell("offset by time", offset=at.offset, epoch=at.leader_epoch, at=time_millis)
    consumer.close()


def identities():
    admin = KafkaAdminClient(**base)
    cluster = admin.describe_cluster()
    tell("cluster id", identity=cluster["cluster_id"])
    for node in cluster["brokers"]:
        tell("node id", identity=str(node.get("node_id", node.get("broker_id"))))
    described = admin.describe_topics([topic])[0]
    tell("leader", identity=str(described["partitions"][0]["leader_id"]))
    settings = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)], config_filter="all")
    for resources in settings.values():
        tell("setting", identity=resources[topic]["cleanup.policy"]["value"])
    admin.close()


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
