# nbdswap in a container.
#
#   docker build -t nbdswap .
#   docker run --name nbdswap -p 127.0.0.1:10809:10809 --shm-size 1100m \
#     -v nbdswap-state:/var/lib/nbdswap \
#     --cap-add IPC_LOCK --cap-add SYS_RESOURCE --ulimit memlock=-1 \
#     --oom-score-adj -1000 --stop-timeout 1800 \
#     nbdswap --export swap=4G --pool-size 1G
#
# What the options are for:
#   --shm-size SIZE      the pool lies in /dev/shm, where Docker allows 64 MiB: give it the pool
#                        size and a little more. /dev/shm ends with the container; the pages in
#                        it are lost with it, so `swapoff` on the clients before `docker rm`
#   --cap-add, --ulimit  the server locks its memory and marks its threads as swap's servers, so
#                        that it cannot wait for the very memory that it is asked to free
#   --stop-timeout 1800  Docker kills after 10 s otherwise; a client that still has pages here
#                        loses processes when its swap goes
# Docker's default seccomp profile forbids io_uring, so that reader threads read the store one page at
# a time; README.md ("Reading the store") says what that costs and how to allow it.
# A new image is a new container, with another /dev/shm and no connections: `nbdswap upgrade` cannot
# carry a server from one image to the next, and its use here is a changed configuration. `swapoff`
# on the clients, or move their swap elsewhere, before you replace the container.
# Swap belongs to the host: run `nbd-client` and `swapon` there and not in a container.

FROM rust:1-slim-bookworm AS builder
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /build/venv && /build/venv/bin/pip install --no-cache-dir 'maturin>=1.9.4,<2'
WORKDIR /build/source
COPY . .
# One wheel for Python 3.11 and newer (abi3).
RUN /build/venv/bin/maturin build --release --locked --out /build/wheels --interpreter python3

FROM python:3.11-slim-bookworm
COPY --from=builder /build/wheels /tmp/wheels
RUN pip install --no-cache-dir /tmp/wheels/*.whl && rm -rf /tmp/wheels
# A fixed number, so that a volume's files keep their owner from image to image.
RUN groupadd --system --gid 10809 nbdswap \
    && useradd --system --uid 10809 --gid nbdswap --no-create-home nbdswap \
    && install -d -o nbdswap -g nbdswap /var/lib/nbdswap /run/nbdswap
USER nbdswap
VOLUME /var/lib/nbdswap
# 10809: NBD. 10810: /healthz, /metrics and the status page.
EXPOSE 10809 10810
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:10810/healthz', timeout=4)"]
ENTRYPOINT ["nbdswap", "serve", "--listen=0.0.0.0:10809", "--admin=0.0.0.0:10810", "--state-dir=/var/lib/nbdswap", "--unix=/run/nbdswap/nbdswap.sock", "--store=/var/lib/nbdswap/store"]
# Small enough for the 64 MiB of /dev/shm that a container has without --shm-size.
CMD ["--export=swap=1G", "--pool-size=48M"]
