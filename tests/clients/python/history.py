"""What the clients in Python that write down what they were told have in common.

The output is the format of package tests/orders/history: one JSON object per line. A
client ends when its standard input ends: a producer flushes first, a reader goes on until
it has got nothing for five seconds. Its arguments are NAME=VALUE words: roles=producer,
group,assign (each in a thread of its own, as client NAME-producer, ...), bootstrap, client,
topics=a,b, partitions, rate, idempotent=true|false, acks=0|1|all, group, conf.KEY=VALUE.
"""

import json
import sys
import threading
import time
import zlib

STOPPING = threading.Event()
QUIET_SECONDS = 5

args, conf = {}, {}
for _word in sys.argv[1:]:
    _name, _value = _word.split("=", 1)
    if _name.startswith("conf."):
        conf[_name[5:]] = _value
    else:
        args[_name] = _value


class Role:
    """One client of the history."""

    lock = threading.Lock()  # of standard output

    def __init__(self, role):
        self.name = args["client"] + "-" + role
        self.topics = args["topics"].split(",")
        self.all = [(t, p) for t in self.topics for p in range(int(args["partitions"]))]
        self.last_record = None  # or when it was looked last and could not have come

    def emit(self, kind, **fields):
        event = {"t": time.time_ns(), "e": kind, "client": self.name, **fields}
        with self.lock:
            sys.stdout.write(json.dumps(event, separators=(",", ":")) + "\n")

    def records(self):
        """Gives what to send next, and how many seconds there are until then:
        (seconds, None), or (0, (topic, partition, key, value, identity))."""
        counters = dict.fromkeys(self.all, 0)
        rate, begun, n = float(args["rate"]), time.monotonic(), 0
        while not STOPPING.is_set():
            ahead = begun + n / rate - time.monotonic()
            if ahead > 0:
                yield ahead, None
                continue
            topic, partition = self.all[n % len(self.all)]
            identity = f"{self.name}/{topic}/{partition}/{counters[topic, partition]}"
            key = f"sale-{self.name}-{n // len(self.all)}"
            body = f"{identity} order={key}"
            self.emit("invoke", payload=identity)
            yield 0, (topic, partition, key, f"{body} sum={zlib.crc32(body.encode()):08x}", identity)
            counters[topic, partition] += 1
            n += 1

    def acknowledged(self, identity, offset):
        """What the library said of a record, with an offset if it told one."""
        told = {} if offset is None or offset < 0 else {"offset": offset}
        self.emit("ack", payload=identity, **told)

    def reading(self, assignment):
        """Over when the client shall stop and nothing comes any more from the partitions
        that it has: one that is slow to get them has not read to the end."""
        if not STOPPING.is_set() or self.last_record is None or not assignment:
            self.last_record = time.monotonic()
        return time.monotonic() - self.last_record < QUIET_SECONDS

    def consumed(self, topic, partition, offset, value):
        self.last_record = time.monotonic()
        self.emit("consume", topic=topic, partition=partition, offset=offset, payload=value.decode().split(" ", 1)[0])

    def begin_producer(self):
        """Whether it is to be idempotent, and its acks."""
        idempotent, acks = args.get("idempotent", "true") == "true", args.get("acks", "all")
        self.emit("start", role="producer", acks=acks, **({"idempotent": True} if idempotent else {}))
        return idempotent, acks


def _wait_for_end():
    while sys.stdin.buffer.read(1):
        pass
    STOPPING.set()


def _flush_always():
    """What was told is on its way within 50 ms."""
    while True:
        time.sleep(0.05)
        sys.stdout.flush()


def run(work):
    """Plays all roles that the arguments name: work maps them to functions of a Role."""
    threading.Thread(target=_wait_for_end, daemon=True).start()
    threading.Thread(target=_flush_always, daemon=True).start()
    failed = []

    def play(role):
        try:
            client = Role(role)
            work[role](client)
            client.emit("stop", **({} if role == "producer" else {"drained": True}))
        except BaseException:
            failed.append(role)
            raise

    threads = [threading.Thread(target=play, args=(role,)) for role in args["roles"].split(",")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.stdout.flush()
    sys.exit(1 if failed else 0)
