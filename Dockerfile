# The agent's image: Python, libbpf and the agent in an otherwise empty root, without shell and package manager.
#
#     docker build -t REGISTRY/dolphin-agent .         podman and buildah too; --platform linux/arm64 as well
#
# Nothing of BASE is in the image, but it has to be Debian 12: its clang compiles what is tested, its Python runs it.
ARG BASE=docker.io/library/debian:bookworm-slim

FROM --platform=$BUILDPLATFORM ${BASE} AS build
# The secrets are for networks with a proxy or a certificate authority of their own; without them, nothing is mounted.
RUN --mount=type=secret,id=apt.conf,target=/etc/apt/apt.conf.d/99build \
    apt-get -q -q update && DEBIAN_FRONTEND=noninteractive apt-get -q -q install --yes --no-install-recommends \
    ca-certificates clang libbpf-dev llvm make python3-pip
COPY . /source
WORKDIR /source
ARG TARGETARCH
RUN --mount=type=secret,id=apt.conf,target=/etc/apt/apt.conf.d/99build \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=secret,id=certificates,target=/etc/ssl/certs/ca-certificates.crt \
    helm/image/root.sh /image

FROM scratch
LABEL org.opencontainers.image.title="dolphin-agent" \
      org.opencontainers.image.description="Exact, policy-driven container network metrics from eBPF" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.2.0"
COPY --from=build /image /
ENV PYTHONUNBUFFERED=1
EXPOSE 10001
ENTRYPOINT ["dolphin-agent"]
CMD ["run"]
