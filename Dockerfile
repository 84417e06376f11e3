# The gateway, and nothing else: no shell, no package manager, no root.
#
#   docker build --tag pathcast --build-arg REVISION="$(git rev-parse HEAD)" .
#
# The first stage is Debian 12 as the last one is, so the C library it links against is the one that is
# there.
ARG RUST_VERSION=1.95
FROM rust:${RUST_VERSION}-bookworm AS build
WORKDIR /src

# What the release profile says, but for the tables of lines: they are four fifths of the program, and a
# panic tells its line without them. Others, for a build in a hurry: --build-arg CARGO_PROFILE_RELEASE_LTO=off
ARG CARGO_PROFILE_RELEASE_LTO=fat
ARG CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1
ENV CARGO_PROFILE_RELEASE_LTO=$CARGO_PROFILE_RELEASE_LTO \
    CARGO_PROFILE_RELEASE_CODEGEN_UNITS=$CARGO_PROFILE_RELEASE_CODEGEN_UNITS \
    CARGO_PROFILE_RELEASE_DEBUG=none \
    CARGO_TERM_PROGRESS_WHEN=never

# The dependencies are a layer of their own, made anew when they change and not when the sources do: a
# program without content is built with them. The manifest names the benches, so there have to be some.
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches/fanout \
    && echo 'fn main() {}' | tee src/main.rs benches/rules.rs >benches/fanout/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked --bins

# The files are as old as the checkout, which may be older than that program; Cargo goes by time.
COPY src src
RUN touch src/main.rs src/lib.rs && cargo build --release --locked --bins

# glibc, libgcc for the unwinding of panics, and certificates of authorities; some 25 MB.
FROM gcr.io/distroless/cc-debian12:nonroot

# What an inventory of images asks for.
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="pathcast" \
      org.opencontainers.image.description="A WebSocket gateway that scales sideways" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.source="$SOURCE" \
      org.opencontainers.image.base.name="gcr.io/distroless/cc-debian12:nonroot"

COPY LICENSE-APACHE LICENSE-MIT /usr/share/doc/pathcast/
COPY --from=build /src/target/release/pathcast /usr/local/bin/pathcast

# `nonroot`, as a number: Kubernetes' runAsNonRoot cannot judge a name.
USER 65532:65532
# Clients, and publishers.
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=10s --retries=2 \
    CMD ["/usr/local/bin/pathcast", "check", "--ready"]
ENTRYPOINT ["/usr/local/bin/pathcast"]
