# syntax=docker/dockerfile:1
# The project with its environment, for `make` in a container (docs/how-to/container.md).
#
#   docker build -t clips .                             CPU
#   docker build -t clips --build-arg VARIANT=cuda .    NVIDIA GPUs, by `docker run --gpus all`
# With a driver before 580: --build-arg LOCK=requirements-bounded.lock
ARG VARIANT=cpu

FROM python:3.11-slim-bookworm AS cpu

# The torch of the lock brings its own CUDA libraries; these variables ask the host for its driver.
FROM cpu AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# hadolint ignore=DL3006
FROM ${VARIANT}
# Versions of Debian's packages are those of the base image's release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ gcc git libc6-dev make \
    && rm -rf /var/lib/apt/lists/*
ENV LC_ALL=C.UTF-8
RUN useradd --create-home --uid 1000 clips \
    && install -d -o clips -g clips /clips
USER 1000
WORKDIR /clips

# What the environment depends on, so that other changes do not install it again.
COPY --chown=clips:clips Makefile pyproject.toml requirements.lock requirements-bounded.lock README.md LICENSE ./
COPY --chown=clips:clips src src
ARG LOCK=requirements.lock
RUN PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1 make install LOCK="${LOCK}"
COPY --chown=clips:clips . .

# No port is exposed: the user interfaces listen on loopback (`docker run --network host` reaches them from the host).
CMD ["make", "help"]
