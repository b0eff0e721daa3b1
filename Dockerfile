# One image for the Prefect server, its workers and the command line. Embedded weights are inside: it needs no network.
#   CPU:  docker build --tag headstart:0.1.0 .
#   GPU:  docker build --tag headstart:0.1.0-gpu --build-arg EXTRAS=lite,cuda .
# It runs with a read-only root: what is written is under /workspace, /prefect, /predictions and /tmp.

# What is installed from the package index, by the exact versions of constraints.txt: gigabytes that a change of
# headstart's own code leaves alone.
FROM python:3.11-slim AS dependencies
ARG EXTRAS=dask,lite
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /source
COPY pyproject.toml constraints.txt ./
# hatchling wants the packages and the files that pyproject.toml names; empty ones do. Nothing here compiles with
# TensorFlow's headers, 430 MB.
RUN mkdir pipeline storage flows \
 && touch README.md prefect.yaml headstart.py pipeline/__init__.py storage/__init__.py flows/__init__.py \
 && python -m venv /opt/headstart \
 && /opt/headstart/bin/pip install --quiet --constraint constraints.txt ".[${EXTRAS}]" \
 && /opt/headstart/bin/pip uninstall --quiet --yes headstart \
 && rm -r /opt/headstart/lib/python3.11/site-packages/tensorflow/include

# headstart's own code, to be laid over them.
FROM dependencies AS code
COPY README.md prefect.yaml headstart.py ./
COPY pipeline pipeline
COPY storage storage
COPY flows flows
RUN /opt/headstart/bin/pip install --quiet --no-deps --prefix /code .

FROM python:3.11-slim
# Volumes that are mounted here for the first time take over these owners.
RUN useradd --uid 1000 --user-group --create-home headstart \
 && install --directory --owner headstart --group headstart /workspace /prefect /predictions
COPY --from=dependencies /opt/headstart /opt/headstart
COPY --from=code /code /opt/headstart
# The server copies its pages to where it can write; by default that is beside its code, and then there are none.
ENV PATH=/opt/headstart/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    DO_NOT_TRACK=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PREFECT_HOME=/prefect \
    PREFECT_SERVER_UI_STATIC_DIRECTORY=/tmp/prefect-ui \
    HEADSTART_HOME=/workspace
# By number: Kubernetes' runAsNonRoot cannot check a name.
USER 1000:1000
WORKDIR /workspace
VOLUME ["/workspace", "/prefect"]
# A server or a worker names its own page in HEALTH_URL. A command that is run once has none, and ends by itself.
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; url = os.environ.get('HEALTH_URL'); url and urllib.request.urlopen(url, timeout=5)"]
# No entry point: `headstart ...`, `prefect server start ...` and `prefect worker start ...` are run by their names.
#   docker run --rm --volume "$PWD/pictures:/pictures:ro" --volume headstart:/workspace headstart:0.1.0 headstart onboard /pictures
CMD ["headstart", "--help"]
