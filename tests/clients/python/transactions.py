"""An ordinary confluent-kafka application with transactions.

It reads committed records and writes their values, with the positions in the
same transaction, until its standard input ends. It knows nothing of sites and
moves: an error that asks for an abort is answered with one, and the same
records are read again.

    transactions.py NAME=VALUE ...

Names: bootstrap, id, from, to, group.
"""

import sys
import threading

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

STOPPING = threading.Event()


def wait_for_end():
    while sys.stdin.buffer.read(1):
        pass
    STOPPING.set()


def transaction(producer, work):
    """Tells whether it was committed."""
    try:
        producer.begin_transaction()
        work()
        while True:
            try:
                producer.commit_transaction(60)
                return True
            except KafkaException as e:
                if not e.args[0].retriable():
                    raise
    except KafkaException as e:
        error = e.args[0]
        print(f"aborts: {error!r}", file=sys.stderr, flush=True)
        if not error.txn_requires_abort():
            raise
    while True:
        try:
            producer.abort_transaction(60)
            return False
        except KafkaException as e:
            if not e.args[0].retriable():
                raise


def rewind(consumer):
    """Goes back to what is committed."""
    assigned = consumer.assignment()
    if not assigned:
        return
    for at in consumer.committed(assigned, 30):
        consumer.seek(TopicPartition(at.topic, at.partition, at.offset if at.offset >= 0 else 0))


def main():
    args = dict(a.split("=", 1) for a in sys.argv[1:])
    threading.Thread(target=wait_for_end, daemon=True).start()
    producer = Producer({"bootstrap.servers": args["bootstrap"], "transactional.id": args["id"]})
    producer.init_transactions(60)
    consumer = Consumer({
        "bootstrap.servers": args["bootstrap"], "group.id": args["group"], "enable.auto.commit": False,
        "auto.offset.reset": "earliest", "isolation.level": "read_committed",
    })
    consumer.subscribe([args["from"]])
    while not STOPPING.is_set():
        records = [r for r in consumer.consume(20, 0.2) if r.error() is None]
        if not records:
            continue

        def work():
            for r in records:
                producer.produce(args["to"], key=r.key(), value=r.value())
            producer.send_offsets_to_transaction(consumer.position(consumer.assignment()), consumer.consumer_group_metadata(), 60)

        if not transaction(producer, work):
            rewind(consumer)
    consumer.close()
    print("done", file=sys.stderr, flush=True)


main()
