# The project's two images: `operator` (the controller) and `trainer` (agent, runtime, PyTorch, examples).
#
#   docker build --target operator -t disttrain/operator:dev .
#   docker build --target trainer  -t disttrain/trainer:dev .
#
# Without Docker, `python -m dev.cluster image-build` builds the same file with buildah.
# Two optional build secrets carry the package settings of the machine that builds, so that none of them lands in an
# image or in this repository: `packages` (a shell file that exports settings of pip and uv), `certificates` (a PEM bundle).

ARG BASE_IMAGE=docker.io/library/debian:bookworm-slim

# ---------------------------------------------------------------- base: Python and a user, nothing else
FROM ${BASE_IMAGE} AS base
RUN export DEBIAN_FRONTEND=noninteractive \
 && apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends python3 ca-certificates > /dev/null \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/apt /var/log/dpkg.log \
 && groupadd --gid 1000 disttrain \
 && useradd --uid 1000 --gid 1000 --create-home --shell /bin/sh disttrain
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1

# ---------------------------------------------------------------- installer: uv and an empty environment
# /opt/disttrain is on the path of the environment through a .pth file: code is copied there without an install step.
# uv (45 MB) stays in: your own image is two lines, FROM disttrain/trainer and RUN uv pip install …, and a change of code
# rebuilds nothing but the layers of the code.
FROM base AS installer
ENV VIRTUAL_ENV=/opt/venv \
    UV_PYTHON=/opt/venv/bin/python \
    UV_NO_CACHE=1
RUN --mount=type=secret,id=packages --mount=type=secret,id=certificates \
    if [ -f /run/secrets/packages ]; then . /run/secrets/packages; fi \
 && export DEBIAN_FRONTEND=noninteractive \
 && apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends python3-venv > /dev/null \
 && python3 -m venv /tmp/pip \
 && /tmp/pip/bin/pip install --quiet --no-cache-dir --target /tmp/uv uv \
 && cp /tmp/uv/bin/uv /usr/local/bin/uv \
 && apt-get purge -y -qq --auto-remove python3-venv > /dev/null \
 && rm -rf /tmp/pip /tmp/uv /var/lib/apt/lists/* /var/cache/apt /var/log/apt /var/log/dpkg.log \
 && uv venv --quiet --python /usr/bin/python3 /opt/venv \
 && mkdir /opt/disttrain \
 && echo /opt/disttrain > "$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/disttrain.pth"

# ---------------------------------------------------------------- torch: gigabytes that change once a year
FROM installer AS torch
# Another index (for example one that has CPU-only wheels) and another version within the tested range.
ARG TORCH_INDEX=
ARG TORCH_VERSION=2.15
RUN --mount=type=secret,id=packages --mount=type=secret,id=certificates \
    if [ -f /run/secrets/packages ]; then . /run/secrets/packages; fi \
 && uv pip install --quiet --compile-bytecode ${TORCH_INDEX:+--index "$TORCH_INDEX"} "torch==${TORCH_VERSION}.*" "numpy>=2,<3"

# ---------------------------------------------------------------- requirements: what pyproject.toml says of dependencies
# Two lists of a fixed age: any other change of pyproject.toml leaves the layers below as they are.
FROM base AS requirements
COPY pyproject.toml /tmp/pyproject.toml
RUN python3 -c 'import tomllib; \
project = tomllib.load(open("/tmp/pyproject.toml", "rb"))["project"]; \
extras = project["optional-dependencies"]; \
write = lambda name, *of: open(f"/tmp/{name}.txt", "w").write("\n".join(sum((extras[e] for e in of), project["dependencies"])) + "\n"); \
write("operator", "operator"); write("trainer", "worker", "s3", "examples")' \
 && touch --date=@0 /tmp/operator.txt /tmp/trainer.txt

# ---------------------------------------------------------------- operator
FROM installer AS operator-packages
COPY --from=requirements /tmp/operator.txt /tmp/requirements.txt
RUN --mount=type=secret,id=packages --mount=type=secret,id=certificates \
    if [ -f /run/secrets/packages ]; then . /run/secrets/packages; fi \
 && uv pip install --quiet --compile-bytecode --requirements /tmp/requirements.txt

FROM operator-packages AS operator
COPY trainer_image/disttrain_contract /opt/disttrain/disttrain_contract
COPY operator/disttrain /opt/disttrain/disttrain
COPY operator/disttrain_operator /opt/disttrain/disttrain_operator
# Compiled ahead, because a pod may not write; by content, because a copied file's time says nothing.
RUN python -m compileall -q --invalidation-mode unchecked-hash /opt/disttrain
ENV HOME=/home/disttrain
USER 1000:1000
WORKDIR /home/disttrain
# The exec form: the program itself is process 1 and gets every signal.
ENTRYPOINT ["/opt/venv/bin/python", "-m", "disttrain_operator"]

# ---------------------------------------------------------------- trainer
FROM torch AS trainer
COPY --from=requirements /tmp/trainer.txt /tmp/requirements.txt
RUN --mount=type=secret,id=packages --mount=type=secret,id=certificates \
    if [ -f /run/secrets/packages ]; then . /run/secrets/packages; fi \
 && uv pip install --quiet --compile-bytecode --requirements /tmp/requirements.txt
COPY trainer_image/disttrain_contract /opt/disttrain/disttrain_contract
COPY trainer_image/disttrain_runtime /opt/disttrain/disttrain_runtime
COPY examples /workspace/examples
RUN python -m compileall -q --invalidation-mode unchecked-hash /opt/disttrain /workspace
ENV HOME=/home/disttrain \
    PYTHONPATH=/workspace/examples:/workspace \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
WORKDIR /workspace
ENTRYPOINT ["/opt/venv/bin/python", "-m", "disttrain_runtime.agent"]
