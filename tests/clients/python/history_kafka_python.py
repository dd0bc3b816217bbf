"""An ordinary kafka-python client that writes down what it was told (module history)."""

import time

from kafka import AsyncConsumerRebalanceListener, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

import history
from history import args


def base(client):
    return {"bootstrap_servers": args["bootstrap"].split(","), "client_id": client.name}


def produce(client):
    idempotent, acks = client.begin_producer()
    producer = KafkaProducer(**base(client), enable_idempotence=idempotent, acks="all" if acks == "all" else int(acks), linger_ms=5)
    for ahead, record in client.records():
        if record is None:
            time.sleep(ahead)
            continue
        topic, partition, key, value, identity = record
        try:
            answer = producer.send(topic, value.encode(), key.encode(), partition=partition)
        except KafkaError as error:
            client.emit("fail", payload=identity, error=repr(error), definite=True)
            continue
        # acks=0: nobody told the library, which counts from 0.
        answer.add_callback(lambda told, i=identity: client.acknowledged(i, None if acks == "0" else told.offset))
        answer.add_errback(lambda error, i=identity: client.emit("fail", payload=i, error=repr(error)))
    producer.flush(60)
    producer.close()


def reader(client, **more):
    return KafkaConsumer(**base(client), auto_offset_reset="earliest", enable_auto_commit=False, **more)


class Member(AsyncConsumerRebalanceListener):
    """Commits once a second and before partitions are given away. The library calls it on
    its own loop, where only what is awaited can wait."""

    def __init__(self, client, consumer):
        self.client, self.consumer, self.read = client, consumer, {}
        self.owned = set()  # consumer.assignment() does not shrink while the group rebalances

    def positions(self):
        return {tp: OffsetAndMetadata(offset, "", -1) for tp, offset in self.read.items()}

    def commit(self):
        at, problem = self.positions(), None
        if at:
            try:
                self.consumer.commit(at)
            except KafkaError as error:
                problem = error
            self.committed(at, problem)

    def committed(self, at, problem):
        told = {"error": repr(problem)} if problem else {}
        for tp, o in at.items():
            self.client.emit("commit", group=args["group"], topic=tp.topic, partition=tp.partition, offset=o.offset, **told)

    async def on_partitions_assigned(self, assigned):
        self.owned = set(assigned)
        self.client.last_record = time.monotonic()  # it waited for them, and may read only now
        for tp in assigned:
            self.client.emit("position", topic=tp.topic, partition=tp.partition)

    async def on_partitions_revoked(self, revoked):
        at, problem = self.positions(), None
        if at:
            try:
                await self.consumer.commit_async(at)
            except KafkaError as error:
                problem = error
            self.committed(at, problem)
        await self.on_partitions_lost(revoked)

    async def on_partitions_lost(self, lost):
        self.owned -= set(lost)
        for tp in lost:
            self.read.pop(tp, None)


def read_in_group(client):
    client.emit("start", role="group", group=args["group"])
    consumer = reader(client, group_id=args["group"])
    member = Member(client, consumer)
    consumer.subscribe(client.topics, listener=member)
    due = time.monotonic() + 1
    while client.reading(member.owned):
        # Long: where poll comes to its end while the member joins, 3.0.12 may never go on.
        for tp, records in consumer.poll(15_000).items():
            for r in records:
                client.consumed(r.topic, r.partition, r.offset, r.value)
                member.read[tp] = r.offset + 1
        if time.monotonic() >= due:
            member.commit()
            due = time.monotonic() + 1
    member.commit()
    consumer.close(autocommit=False)


def read_assigned(client):
    client.emit("start", role="assign")
    consumer = reader(client, group_id=None)
    all_partitions = [TopicPartition(t, p) for t, p in client.all]
    consumer.assign(all_partitions)
    for tp, offset in consumer.beginning_offsets(all_partitions).items():
        client.emit("position", topic=tp.topic, partition=tp.partition, offset=offset)
        consumer.seek(tp, offset)
    while client.reading(consumer.assignment()):
        for records in consumer.poll(1000).values():
            for r in records:
                client.consumed(r.topic, r.partition, r.offset, r.value)
    consumer.close()


if __name__ == "__main__":
    history.run({"producer": produce, "group": read_in_group, "assign": read_assigned})
