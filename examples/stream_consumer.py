"""Hears the events of a path from its streams in Redis, shared among any number of processes.

All events of a session are in one of the path's streams, so whoever handles a whole stream, alone,
handles them in order. Who that is says a *lease* for each stream: a key that only its owner renews.
Processes share the streams evenly; when one dies, others take its leases over when they expire, and
begin with what it had been given and not acknowledged. So every event is handled at least once; one
that comes again has the same `id`.

    def handle(event):
        print(event["session"], event["seq"], event["type"], event.get("msg"), flush=True)

    Consumer(redis.Redis(decode_responses=True), "/ws/api", "my-service").run(handle)

Needs redis-py (`pip install redis`).
"""

import json
import time
import uuid

import redis

PARTITIONS = 8  # broker.stream_partitions of the gateway
LEASE_SECONDS = 6.0  # longer than handling one event ever takes
BATCH = 64
IDLE_SECONDS = 0.5

# Redis runs each of these as one step. Only who holds the lease is given entries: a process that
# stood still past its lease finds out here, before it takes something that others should handle.
# What was given and not acknowledged comes first: to an owner that died, or in an answer that got lost.
RENEW = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('PEXPIRE', KEYS[1], ARGV[2])"
RELEASE = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1])"
READ = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'lost' end
local function read(from)
  return redis.call('XREADGROUP', 'GROUP', ARGV[2], 'owner', 'COUNT', ARGV[3], 'STREAMS', KEYS[2], from)
end
local pending = read('0')
if #pending[1][2] > 0 then return pending end
return read('>')
"""


class Consumer:
    def __init__(self, connection, path, group, partitions=PARTITIONS, prefix="pathcast"):
        """`path`: as configured; `group`: the name that all processes of one application share."""
        self.redis = connection
        self.group = group
        self.streams = [f"{prefix}:in:{path}:{number}" for number in range(partitions)]
        self.name = uuid.uuid4().hex
        self.members = f"{prefix}:workers:{path}:{group}"
        self.owned = {}  # stream → _Ownership
        self.looked_at = 0.0
        self.stopping = False
        self.renew = connection.register_script(RENEW)
        self.release = connection.register_script(RELEASE)
        self.read = connection.register_script(READ)

    def run(self, handle):
        """Calls `handle(event)` for one event after the other, until `stop` is called."""
        while not self.stopping:
            try:
                self.keep_leases()
                if not any([self.handle_some(stream, handle) for stream in list(self.owned)]):
                    self.wait()
            except (redis.ConnectionError, redis.TimeoutError) as error:
                print("Redis is away:", error, flush=True)
                time.sleep(IDLE_SECONDS)
        for stream in list(self.owned):
            self.give_up(stream)
        self.redis.zrem(self.members, self.name)

    def stop(self):
        """To be called by a signal handler, say: `run` returns when the event at hand is handled."""
        self.stopping = True

    def handle_some(self, stream, handle):
        """Handles a batch of a stream; whether there was one."""
        own = self.owned.get(stream)
        if own is None:
            return False  # given up a moment ago
        keys, arguments = [self.lease(stream), stream], [self.name, self.group, BATCH]
        batch = self.read(keys=keys, args=arguments)
        if batch == "lost":
            del self.owned[stream]
        if not batch or batch == "lost":
            return False
        entries, done = batch[0][1], []
        try:
            for entry_id, fields in entries:
                self.keep_leases()
                if self.stopping or self.owned.get(stream) is not own or own.has_lapsed():
                    break  # the rest is for whoever owns the stream next
                if fields:  # nothing is left of an entry that was trimmed
                    handle(event_of(fields))
                own.last_id = entry_id
                done.append(entry_id)
        finally:
            if done:
                self.redis.xack(stream, self.group, *done)
        return True

    def wait(self):
        """Until something new comes to a stream of ours, or a moment has passed."""
        if self.owned:
            after = {stream: own.last_id for stream, own in self.owned.items()}
            self.redis.xread(after, count=1, block=int(IDLE_SECONDS * 1000))
        else:
            time.sleep(IDLE_SECONDS)

    def keep_leases(self):
        """Now and then: renews what is ours, takes what is free, gives up what is too much."""
        if time.monotonic() - self.looked_at < LEASE_SECONDS / 4:
            return
        self.looked_at = time.monotonic()
        for stream, own in list(self.owned.items()):
            begun = time.monotonic()
            keys, arguments = [self.lease(stream)], [self.name, int(LEASE_SECONDS * 1000)]
            if self.renew(keys=keys, args=arguments):
                own.renewed_at = begun
            else:
                del self.owned[stream]
        share = -(-len(self.streams) // self.count_members())
        for stream in list(self.owned)[share:]:
            self.give_up(stream)
        for stream in self.streams:
            if len(self.owned) >= share:
                break
            if stream not in self.owned:
                self.take(stream)

    def take(self, stream):
        begun = time.monotonic()
        lease = self.lease(stream)
        if self.redis.set(lease, self.name, nx=True, px=int(LEASE_SECONDS * 1000)):
            try:
                self.redis.xgroup_create(stream, self.group, id="0", mkstream=True)
            except redis.ResponseError as error:
                if "BUSYGROUP" not in str(error):  # it is there already
                    raise
            self.owned[stream] = _Ownership(begun)

    def give_up(self, stream):
        del self.owned[stream]
        self.release(keys=[self.lease(stream)], args=[self.name])

    def count_members(self):
        """How many processes share the streams; this one says that it is one of them."""
        now = float(self.redis.time()[0])
        self.redis.zadd(self.members, {self.name: now + LEASE_SECONDS})
        self.redis.zremrangebyscore(self.members, 0, now)
        return self.redis.zcard(self.members)

    def lease(self, stream):
        return f"{stream}:owner:{self.group}"


class _Ownership:
    def __init__(self, renewed_at):
        self.renewed_at = renewed_at
        self.last_id = "$"  # whatever comes from now on wakes `wait`

    def has_lapsed(self):
        return time.monotonic() - self.renewed_at >= LEASE_SECONDS


def event_of(fields):
    """An entry's fields, a flat list of names and texts, as the event that they stand for."""
    event = dict(zip(fields[::2], fields[1::2]))
    for number in ("seq", "code"):
        if number in event:
            event[number] = int(event[number])
    if "msg" in event:
        event["msg"] = json.loads(event["msg"])
    return event
