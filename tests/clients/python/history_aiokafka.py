"""An ordinary aiokafka client that writes down what it was told (module history). Each
role has an event loop of its own."""

import asyncio
import time

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

import history
from history import args


def base(client):
    return {"bootstrap_servers": args["bootstrap"].split(","), "client_id": client.name}


async def produce(client):
    idempotent, acks = client.begin_producer()
    producer = AIOKafkaProducer(**base(client), enable_idempotence=idempotent, acks="all" if acks == "all" else int(acks), linger_ms=5)
    await producer.start()
    open_answers = set()

    def told(identity):
        def done(answer):
            open_answers.discard(answer)
            if answer.exception() is not None:
                client.emit("fail", payload=identity, error=repr(answer.exception()))
            else:
                client.acknowledged(identity, getattr(answer.result(), "offset", None))

        return done

    for ahead, record in client.records():
        if record is None:
            await asyncio.sleep(ahead)
            continue
        topic, partition, key, value, identity = record
        try:
            answer = await producer.send(topic, value.encode(), key.encode(), partition=partition)
        except KafkaError as error:
            client.emit("fail", payload=identity, error=repr(error), definite=True)
            continue
        open_answers.add(answer)
        answer.add_done_callback(told(identity))
    await producer.flush()
    while open_answers:
        await asyncio.sleep(0.05)
    await producer.stop()


def reader(client, **more):
    return AIOKafkaConsumer(**base(client), auto_offset_reset="earliest", enable_auto_commit=False, **more)


class Member(ConsumerRebalanceListener):
    """Commits once a second and before partitions are given away."""

    def __init__(self, client, consumer):
        self.client, self.consumer, self.read = client, consumer, {}
        self.owned = set()  # consumer.assignment() does not shrink while the group rebalances

    async def commit(self):
        if not self.read:
            return
        at, problem = dict(self.read), {}
        try:
            await self.consumer.commit(at)
        except KafkaError as error:
            problem = {"error": repr(error)}
        for tp, offset in at.items():
            self.client.emit("commit", group=args["group"], topic=tp.topic, partition=tp.partition, offset=offset, **problem)

    async def on_partitions_assigned(self, assigned):
        self.owned = set(assigned)
        self.client.last_record = time.monotonic()  # it waited for them, and may read only now
        for tp in assigned:
            self.client.emit("position", topic=tp.topic, partition=tp.partition)

    async def on_partitions_revoked(self, revoked):
        await self.commit()
        await self.on_partitions_lost(revoked)

    async def on_partitions_lost(self, lost):
        self.owned -= set(lost)
        for tp in lost:
            self.read.pop(tp, None)


async def read_in_group(client):
    client.emit("start", role="group", group=args["group"])
    consumer = reader(client, group_id=args["group"])
    member = Member(client, consumer)
    consumer.subscribe(client.topics, listener=member)
    await consumer.start()
    due = time.monotonic() + 1
    while client.reading(member.owned):
        for tp, records in (await consumer.getmany(timeout_ms=100)).items():
            for r in records:
                client.consumed(r.topic, r.partition, r.offset, r.value)
                member.read[tp] = r.offset + 1
        if time.monotonic() >= due:
            await member.commit()
            due = time.monotonic() + 1
    await member.commit()
    await consumer.stop()


async def read_assigned(client):
    client.emit("start", role="assign")
    consumer = reader(client)
    await consumer.start()
    all_partitions = [TopicPartition(t, p) for t, p in client.all]
    consumer.assign(all_partitions)
    for tp, offset in (await consumer.beginning_offsets(all_partitions)).items():
        client.emit("position", topic=tp.topic, partition=tp.partition, offset=offset)
        consumer.seek(tp, offset)
    while client.reading(consumer.assignment()):
        for records in (await consumer.getmany(timeout_ms=100)).values():
            for r in records:
                client.consumed(r.topic, r.partition, r.offset, r.value)
    await consumer.stop()


def looping(work):
    return lambda client: asyncio.run(work(client))


if __name__ == "__main__":
    history.run({"producer": looping(produce), "group": looping(read_in_group), "assign": looping(read_assigned)})
