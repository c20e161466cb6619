# One image for every service: `tuner serve`, `tuner worker`, `tuner db upgrade`.
# PIP_EXTRA_INDEX_URL may name an index that holds torch's build for CPUs, far smaller than CUDA's.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/tuner
ENV PATH=/opt/tuner/bin:$PATH
WORKDIR /src
# The dependencies first: they change less often than the code.
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY examples ./examples
RUN mkdir tuner api migrations && touch tuner/__init__.py api/__init__.py \
 && pip install -c constraints.txt hatchling \
 && pip install -c constraints.txt --no-build-isolation . \
 && pip uninstall -y tuner
COPY tuner ./tuner
COPY api ./api
COPY migrations ./migrations
RUN pip install -c constraints.txt --no-build-isolation --no-deps .

FROM ${PYTHON_IMAGE}
# torch compiles optimizer steps with it; without one they run eagerly.
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --system --uid 10001 --create-home tuner && install -d -o tuner -g tuner /data
COPY --from=build /opt/tuner /opt/tuner
ENV PATH=/opt/tuner/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TUNER_HOME=/data \
    TUNER_LOG_JSON=true
USER tuner
WORKDIR /data
VOLUME /data
EXPOSE 8420
ENTRYPOINT ["tuner"]
CMD ["serve", "--host", "0.0.0.0", "--workers", "0", "--plain-http"]
