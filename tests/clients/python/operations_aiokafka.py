"""An ordinary aiokafka client that does once what clients do, and prints what it was told."""

import asyncio

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from told import PATIENCE_SECONDS, args, members, producing, tell, times, topic, values

base = {"bootstrap_servers": args["bootstrap"], "client_id": args["client"]}
partition = TopicPartition(topic, 0)


async def produce(op, acks, idempotent):
    producer = AIOKafkaProducer(**base, acks="all" if acks == "all" else int(acks), enable_idempotence=idempotent)
    await producer.start()
    sent = [(value, await producer.send(topic, value.encode(), partition=0)) for value in values(op)]
    await producer.flush()
    for value, answer in sent:
        told = await answer
        tell(op, value=value, offset=None if told is None else told.offset)
    await producer.stop()


def reader(*topics, **more):
    return AIOKafkaConsumer(*topics, **base, auto_offset_reset="earliest", enable_auto_commit=False, **more)


async def consume(consumer, op, step, count):
    """Tells of the next records and returns the last one."""
    last = None
    for _ in range(count):
        last = await asyncio.wait_for(consumer.getone(), PATIENCE_SECONDS)
        tell(op, step, last.value.decode(), last.offset)
    return last


async def member(op, step, group, count):
    """Handles count records, commits the position after the last, and leaves."""
    consumer = reader(topic, group_id=group)
    await consumer.start()
    last = await consume(consumer, op, step, count)
    await consumer.commit({partition: last.offset + 1})
    tell(op, step + " committed", offset=await consumer.committed(partition))
    await consumer.stop()


async def assign():
    """Reads from a position of its own, and asks for positions by time."""
    consumer = reader()
    await consumer.start()
    consumer.assign([partition])
    consumer.seek(partition, int(args["from"]))
    await consume(consumer, "assign", "", int(args["rest"]))
    for time_millis in times():
        at = (await consumer.offsets_for_times({partition: time_millis}))[partition]
        tell("offset by time", offset=at.offset, at=time_millis)
    await consumer.stop()


async def identities():
    admin = AIOKafkaAdminClient(**base)
    await admin.start()
    cluster = await admin.describe_cluster()
    tell("cluster id", identity=cluster["cluster_id"])
    for node in cluster["brokers"]:
        tell("node id", identity=str(node["node_id"]))
    described = (await admin.describe_topics([topic]))[0]
    tell("leader", identity=str(described["partitions"][0]["leader"]))
    answer = (await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)]))[0]
    for resource in answer.to_object()["resources"]:
        for entry in resource["config_entries"]:
            if entry["config_names"] == "cleanup.policy":
                tell("setting", identity=entry["config_value"])
    await admin.close()


async def main():
    if args["write"] == "true":
        for op, acks, idempotent in producing():
            await produce(op, acks, idempotent)
        return
    for op, step, group, count in members():
        await member(op, step, group, count)
    await assign()
    await identities()


if __name__ == "__main__":
    asyncio.run(main())
