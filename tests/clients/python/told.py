"""What the programs in Python that do once what clients do have in common: their arguments,
and how they print what they were told, one JSON object a line (type Told of package
tests/clients, which starts them).
"""

import json
import sys

PATIENCE_SECONDS = 45

args = dict(word.split("=", 1) for word in sys.argv[1:])
topic = args["topic"]


def tell(op, step="", value="", offset=None, epoch=None, at=0, identity=""):
    def shown(number):
        return -1 if number is None or number < 0 else number

    line = {"op": op, "step": step, "value": value, "offset": shown(offset), "epoch": shown(epoch), "time": at, "id": identity}
    print(json.dumps(line), flush=True)


def values(op):
    """The values of the records that an operation writes."""
    return [f"{args['client']}/{args['tag']}/{op}/{n}" for n in range(int(args["records"]))]


def producing():
    """The operations that write: name, acks and whether the producer is idempotent."""
    return [("produce acks=0", "0", False), ("produce acks=1", "1", False), ("produce acks=all", "all", False), ("produce idempotent", "all", True)]


def members():
    """The members of groups, one after the other: operation, step, name of the group, records."""
    half, total = int(args["half"]), int(args["total"])
    for op in args["groups"].split(","):
        group = f"{args['client']}-{args['tag']}-{op.removeprefix('group ')}"
        yield op, "first", group, half
        yield op, "second", group, total - half


def times():
    return [int(text) for text in args["times"].split(",")]
