"""An ordinary confluent-kafka client that writes down what it was told.

The output is the format of package tests/orders/history: one JSON object per
line. The client ends when its standard input ends: a producer flushes first, a
reader goes on until it has got nothing for five seconds.

    history_client.py NAME=VALUE ...

Names: roles=producer,group,assign (each in a thread of its own, as client
NAME-producer, ...), bootstrap, client, topics=a,b, partitions,
rate, idempotent=true|false, acks=0|1|all, group, conf.KEY=VALUE.
"""

import json
import sys
import threading
import time
import zlib

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

STOPPING = threading.Event()
QUIET_SECONDS = 5


def wait_for_end():
    while sys.stdin.buffer.read(1):
        pass
    STOPPING.set()


def flush_always():
    """What was told is on its way within 50 ms."""
    while True:
        time.sleep(0.05)
        sys.stdout.flush()


class Client:
    lock = threading.Lock()  # of standard output

    def __init__(self, role, args, conf):
        self.args, self.conf = args, dict(conf)
        self.name = args["client"] + "-" + role
        self.topics = args["topics"].split(",")
        self.all = [(t, p) for t in self.topics for p in range(int(args["partitions"]))]
        self.conf["bootstrap.servers"] = args["bootstrap"]
        self.conf.setdefault("client.id", self.name)
        self.last_record = None  # or when it was looked last and could not have come
        self.conf["error_cb"] = lambda error: print(f"error: {error!r}", file=sys.stderr)

    def emit(self, kind, **fields):
        event = {"t": time.time_ns(), "e": kind, "client": self.name, **fields}
        with self.lock:
            sys.stdout.write(json.dumps(event, separators=(",", ":")) + "\n")

    def produce(self):
        idempotent = self.args.get("idempotent", "true") == "true"
        acks = self.args.get("acks", "all")
        self.conf.update({"enable.idempotence": idempotent, "acks": acks})
        self.conf.setdefault("linger.ms", 5)
        start = {"role": "producer", "acks": acks}
        self.emit("start", **start, **({"idempotent": True} if idempotent else {}))
        producer = Producer(self.conf)
        counters = dict.fromkeys(self.all, 0)
        rate, begun, n = float(self.args["rate"]), time.monotonic(), 0
        while not STOPPING.is_set():
            ahead = begun + n / rate - time.monotonic()
            producer.poll(max(ahead, 0))
            if begun + n / rate > time.monotonic():
                continue
            topic, partition = self.all[n % len(self.all)]
            identity = f"{self.name}/{topic}/{partition}/{counters[topic, partition]}"
            key = f"sale-{self.name}-{n // len(self.all)}"
            body = f"{identity} order={key}"
            value = f"{body} sum={zlib.crc32(body.encode()):08x}"
            self.emit("invoke", payload=identity)
            try:
                producer.produce(topic, value, key, partition, on_delivery=self.delivered(identity))
            except (BufferError, KafkaException) as error:
                self.emit("fail", payload=identity, error=str(error), definite=True)
                producer.poll(0.1)
            counters[topic, partition] += 1
            n += 1
        producer.flush(60)

    def delivered(self, identity):
        def told(error, message):
            if error is not None:
                self.emit("fail", payload=identity, error=str(error))
            elif message.offset() >= 0:
                self.emit("ack", payload=identity, offset=message.offset())
            else:
                self.emit("ack", payload=identity)

        return told

    def reading(self, consumer):
        """Over when the client shall stop and nothing comes any more from the partitions
        that it has: one that is slow to get them has not read to the end."""
        if not STOPPING.is_set() or self.last_record is None or not consumer.assignment():
            self.last_record = time.monotonic()
        return time.monotonic() - self.last_record < QUIET_SECONDS

    def consumed(self, message):
        if message is None:
            return
        self.last_record = time.monotonic()
        if message.error():
            print(f"error: {message.error()}", file=sys.stderr)
            return
        identity = message.value().decode().split(" ", 1)[0]
        self.emit("consume", topic=message.topic(), partition=message.partition(), offset=message.offset(), payload=identity)

    def read_in_group(self):
        group = self.args["group"]
        self.conf.update({"group.id": group, "enable.auto.commit": False})
        self.conf.setdefault("auto.offset.reset", "earliest")
        self.emit("start", role="group", group=group)
        consumer = Consumer(self.conf)
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
                self.emit("commit", group=group, topic=tp.topic, partition=tp.partition, offset=tp.offset, **problem)

        def assigned(_, partitions):
            for tp in partitions:
                self.emit("position", topic=tp.topic, partition=tp.partition)

        def revoked(_, partitions):
            commit()
            for tp in partitions:
                read.pop((tp.topic, tp.partition), None)

        def lost(_, partitions):
            for tp in partitions:
                read.pop((tp.topic, tp.partition), None)

        consumer.subscribe(self.topics, on_assign=assigned, on_revoke=revoked, on_lost=lost)
        due = time.monotonic() + 1
        while self.reading(consumer):
            message = consumer.poll(0.1)
            self.consumed(message)
            if message is not None and not message.error():
                read[message.topic(), message.partition()] = message.offset() + 1
            if time.monotonic() >= due:
                commit()
                due = time.monotonic() + 1
        commit()
        consumer.close()

    def read_assigned(self):
        self.conf.update({"group.id": "unused-" + self.name, "enable.auto.commit": False})
        self.emit("start", role="assign")
        consumer = Consumer(self.conf)
        at = []
        for topic, partition in self.all:
            low, _ = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)
            self.emit("position", topic=topic, partition=partition, offset=low)
            at.append(TopicPartition(topic, partition, low))
        consumer.assign(at)
        while self.reading(consumer):
            self.consumed(consumer.poll(0.1))
        consumer.close()


def main():
    args, conf = {}, {}
    for argument in sys.argv[1:]:
        name, value = argument.split("=", 1)
        if name.startswith("conf."):
            conf[name[5:]] = value
        else:
            args[name] = value
    threading.Thread(target=wait_for_end, daemon=True).start()
    threading.Thread(target=flush_always, daemon=True).start()
    failed = []

    def run(role):
        try:
            client = Client(role, args, conf)
            {"producer": client.produce, "group": client.read_in_group, "assign": client.read_assigned}[role]()
            client.emit("stop", **({} if role == "producer" else {"drained": True}))
        except BaseException:
            failed.append(role)
            raise

    threads = [threading.Thread(target=run, args=(role,)) for role in args["roles"].split(",")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.stdout.flush()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
