"""Makes what docker-compose.yml keeps secret, before anything else starts: a volume for each service, with what that one needs.

What is there stays: passwords are made once, and go with `docker compose down --volumes`. Everybody in a container may read
what is mounted there, since each container is one program with one user.
"""

import pathlib
import secrets

# The rights that docs/redis.md explains. Nobody else may do anything.
REDIS = """\
user default off
user pathcast on >{password} resetchannels &pathcast:* resetkeys ~pathcast:* -@all +hello +auth +select +publish +subscribe \
+unsubscribe +time +set +get +del +exists +sadd +srem +smembers +role +pttl +pexpire +incrby +xadd +multi +exec +watch +expire \
+hset +hdel +hscan +eval +xlen +xtrim +xinfo +xpending +xrange +xdel
save ""
appendonly no
maxmemory 192mb
maxmemory-policy noeviction
"""

BROKER = """
[broker]
url = "redis://pathcast:{password}@redis:6379"
"""

volumes = pathlib.Path("/run/volumes")


def keep(service, name, text):
    file = volumes / service / name
    if not file.exists() or file.read_text() != text:
        # In one step, since gateways look for changes; and who may do nothing may not open a file of 0444 either.
        new = file.with_suffix(".new")
        new.write_text(text)
        new.chmod(0o444)
        new.rename(file)


def secret(service, name):
    """As it was made the first time."""
    file = volumes / service / name
    if not file.exists():
        keep(service, name, secrets.token_hex(32))
    return file.read_text()


password = secret("redis", "redis_password")
publisher = secret("publisher", "publisher_key")
metrics = secret("prometheus", "metrics_key")
settings = pathlib.Path("/etc/pathcast/pathcast.toml").read_text()

keep("redis", "redis.conf", REDIS.format(password=password))
keep("gateway", "publisher_key", publisher)
keep("gateway", "metrics_key", metrics)
keep("gateway", "pathcast.toml", settings + BROKER.format(password=password))
