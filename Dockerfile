# Pitcrew's three images: operator, builder and runtime.
#
#   docker build --target operator -t pitcrew/operator .
#
# PYTHON_IMAGE has pip and a shell and serves only to install. BASE_IMAGE is what the product runs
# on: it needs no more than the same Python at the same path, so it may be a distroless image. TENSORRT
# are packages for target tensorrt, in builder and runtime alike (docs/targets.md); empty: for CPUs.
ARG PYTHON_IMAGE=python:3.11-slim
ARG BASE_IMAGE=${PYTHON_IMAGE}
ARG TENSORRT=

# --- Dependencies: one stage for each image, rebuilt only when its lock changes. -----------------
FROM ${PYTHON_IMAGE} AS install
# Bytecode is compiled last, from the files that stay, and trusted without looking at their dates.
ENV PYTHONDONTWRITEBYTECODE=1 \
    COMPILE="-m compileall -q --invalidation-mode unchecked-hash"
RUN python3 -m venv --without-pip /opt/pitcrew

FROM install AS operator-install
COPY requirements/operator.lock /tmp/lock
# The Kubernetes client is 73 MB of generated classes that the operator, which speaks plain JSON over
# kubernetes.aio, never loads: those of the blocking client go, those of kubernetes.aio stay uncompiled.
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip --python /opt/pitcrew/bin/python3 install --no-compile --require-hashes -r /tmp/lock \
    && find /opt/pitcrew -type d \( -name tests -o -name test \) -prune -exec rm -rf {} + \
    && cd /opt/pitcrew/lib/python3*/site-packages/kubernetes \
    && find client/api client/models -name '*.py' ! -name __init__.py -delete \
    && python3 ${COMPILE} -x '/aio/client/(api|models)/' /opt/pitcrew/lib

FROM install AS builder-install
ARG TENSORRT
# The S3 client describes every service of its maker, 26 MB; storage and the ways to sign in stay.
COPY requirements/builder.lock /tmp/lock
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip --python /opt/pitcrew/bin/python3 install --no-compile --require-hashes -r /tmp/lock \
    && { [ -z "${TENSORRT}" ] || python3 -m pip --python /opt/pitcrew/bin/python3 install --no-compile ${TENSORRT}; } \
    && find /opt/pitcrew -type d \( -name tests -o -name test \) -prune -exec rm -rf {} + \
    && cd /opt/pitcrew/lib/python3*/site-packages/botocore/data \
    && find . -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name sts ! -name 'sso*' ! -name signin -exec rm -rf {} + \
    && python3 ${COMPILE} /opt/pitcrew/lib

FROM install AS runtime-install
ARG TENSORRT
COPY requirements/runtime.lock /tmp/lock
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip --python /opt/pitcrew/bin/python3 install --no-compile --require-hashes -r /tmp/lock \
    && { [ -z "${TENSORRT}" ] || python3 -m pip --python /opt/pitcrew/bin/python3 install --no-compile ${TENSORRT}; } \
    && find /opt/pitcrew -type d \( -name tests -o -name test \) -prune -exec rm -rf {} + \
    && python3 ${COMPILE} /opt/pitcrew/lib

# --- The project itself: changes often, and is a small layer on top of its dependencies. ---------
FROM install AS backend
COPY requirements/build.lock /tmp/lock
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv --without-pip /opt/backend \
    && python3 -m pip --python /opt/backend/bin/python3 install --no-compile --require-hashes -r /tmp/lock

FROM backend AS project
WORKDIR /src
# .dockerignore lets in only what the wheel is made of.
COPY . .
RUN /opt/backend/bin/python3 -m hatchling build -t wheel -d /dist \
    && python3 -m pip --python /opt/pitcrew/bin/python3 install --no-compile --no-deps --no-index \
       --prefix /opt/project /dist/*.whl \
    && python3 ${COMPILE} /opt/project/lib

# --- What is shipped: a Python, a virtual environment, no installer, no rights. ------------------
# What changes comes last, so that a new version is one small layer.
FROM ${BASE_IMAGE} AS shipped
ARG VERSION=dev
LABEL org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
# HOME is the one place that is writable under a read-only root: the pod mounts a volume there.
ENV PATH=/opt/pitcrew/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /tmp
USER 10001:10001

FROM shipped AS operator
LABEL org.opencontainers.image.title="pitcrew-operator"
ENTRYPOINT ["pitcrew-operator"]
COPY --from=operator-install /opt/pitcrew /opt/pitcrew
COPY --from=project /opt/project /opt/pitcrew

FROM shipped AS builder
LABEL org.opencontainers.image.title="pitcrew-builder"
ENTRYPOINT ["pitcrew-build"]
COPY --from=builder-install /opt/pitcrew /opt/pitcrew
COPY --from=project /opt/project /opt/pitcrew

FROM shipped AS runtime
LABEL org.opencontainers.image.title="pitcrew-runtime"
EXPOSE 8000
ENTRYPOINT ["pitcrew-serve"]
COPY --from=runtime-install /opt/pitcrew /opt/pitcrew
COPY --from=project /opt/project /opt/pitcrew
