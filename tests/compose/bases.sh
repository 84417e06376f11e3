#!/usr/bin/env bash
# Makes the images that the Dockerfile and docker-compose.yml start from, under their own names, out of
# Debian's packages: for a machine that can reach a package mirror but no registry of images.
#
# They stand in for what is needed of them (programs, users, entry points), in a daemon of the test's
# own. Grafana and Jaeger are in no Debian, and nothing here has their names.
set -euo pipefail

MIRROR=${MIRROR:-http://deb.debian.org/debian}
rust=$(rustc --version | sed 's/^rustc \([0-9]*\.[0-9]*\).*/\1/')
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Packages are fetched through the machine's own network. What was made before is taken from the daemon's cache.
build() {
  echo "base image $1"
  docker build --network host --tag "$@" >"$scratch/build.log" 2>&1 || {
    tail -n 40 "$scratch/build.log" >&2
    return 1
  }
}

if ! docker image inspect debian:bookworm-slim >/dev/null 2>&1; then
  debootstrap --variant=minbase bookworm "$scratch/debian" "$MIRROR" >"$scratch/debootstrap.log" || {
    tail "$scratch/debootstrap.log" >&2
    exit 1
  }
  rm -rf "$scratch/debian/var/cache/apt/archives/"*.deb "$scratch/debian/usr/share/doc" "$scratch/debian/usr/share/locale"
  printf 'deb %s bookworm main\ndeb %s-security bookworm-security main\n' "$MIRROR" "$MIRROR" >"$scratch/debian/etc/apt/sources.list"
  tar --create --one-file-system --directory "$scratch/debian" . | docker import --change 'CMD ["bash"]' - debian:bookworm-slim >/dev/null
  rm -rf "$scratch/debian"
fi

build redis:7.0-bookworm - <<'END'
FROM debian:bookworm-slim
RUN groupadd --system --gid 999 redis && useradd --system --uid 999 --gid 999 --no-create-home redis \
    && apt-get update && apt-get install --yes --no-install-recommends redis-server && rm -rf /var/lib/apt/lists/*
WORKDIR /data
CMD ["redis-server"]
END

build haproxy:2.6-bookworm - <<'END'
FROM debian:bookworm-slim
RUN apt-get update && apt-get install --yes --no-install-recommends haproxy && rm -rf /var/lib/apt/lists/* \
    && usermod --uid 99 haproxy && groupmod --gid 99 haproxy
USER haproxy
STOPSIGNAL SIGUSR1
CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
END

build prom/prometheus:v2.42.0 - <<'END'
FROM debian:bookworm-slim
RUN apt-get update && apt-get install --yes --no-install-recommends prometheus wget && rm -rf /var/lib/apt/lists/* \
    && mkdir -p /prometheus && chown nobody:nogroup /prometheus
USER nobody
WORKDIR /prometheus
ENTRYPOINT ["/bin/prometheus"]
END

build python:3.11-slim-bookworm - <<'END'
FROM debian:bookworm-slim
RUN apt-get update && apt-get install --yes --no-install-recommends python3 && rm -rf /var/lib/apt/lists/* \
    && ln -s /usr/bin/python3 /usr/local/bin/python
CMD ["python"]
END

# Of `cc` there are the C library, libgcc, the certificates and the user.
build gcr.io/distroless/cc-debian12:nonroot - <<'END'
FROM debian:bookworm-slim AS packages
WORKDIR /packages
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates \
    && apt-get download base-files netbase tzdata libc6 libgcc-s1 gcc-12-base libstdc++6 libgomp1 libssl3 \
    && for package in *.deb; do dpkg-deb --extract "$package" /root/image; done \
    && rm -rf /root/image/usr/share/doc /root/image/usr/share/lintian \
    && mkdir -p /root/image/etc/ssl/certs /root/image/home/nonroot /root/image/tmp && chmod 1777 /root/image/tmp \
    && cp /etc/ssl/certs/ca-certificates.crt /root/image/etc/ssl/certs/ \
    && printf 'root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n' >/root/image/etc/passwd \
    && printf 'root:x:0:\nnonroot:x:65532:\n' >/root/image/etc/group
FROM scratch
COPY --from=packages /root/image /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532
WORKDIR /home/nonroot
END

# The machine's own toolchain; and its authorities, where something between here and crates.io has one.
mkdir "$scratch/rust"
cat >"$scratch/rust/Dockerfile" <<'END'
FROM debian:bookworm-slim
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates gcc libc6-dev make && rm -rf /var/lib/apt/lists/*
COPY toolchain /usr/local
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
ENV CARGO_HOME=/usr/local/cargo
END
cp /etc/ssl/certs/ca-certificates.crt "$scratch/rust/"
tar --create --directory "$scratch/rust" Dockerfile ca-certificates.crt \
  --directory "$(rustc --print sysroot)" --transform 's,^\(bin\|lib\)\>,toolchain/\1,' bin lib |
  build "rust:$rust-bookworm" -
