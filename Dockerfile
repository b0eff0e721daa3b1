# One image for the command line, Prefect workers and Dask workers, CPU. Embedded weights are inside: it needs no network.
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md ./
COPY pipeline pipeline
COPY storage storage
COPY flows flows
RUN python -m venv /opt/headstart \
 && /opt/headstart/bin/pip install --no-cache-dir --quiet -c constraints.txt '.[dask,lite]'

FROM python:3.11-slim
RUN useradd --create-home --uid 1000 headstart \
 && install -d -o headstart -g headstart /workspace
COPY --from=build /opt/headstart /opt/headstart
ENV PATH=/opt/headstart/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DO_NOT_TRACK=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    HEADSTART_HOME=/workspace
USER headstart
WORKDIR /home/headstart
VOLUME /workspace
# docker run -v $PWD/pictures:/pictures:ro -v headstart:/workspace headstart onboard /pictures
ENTRYPOINT ["headstart"]
CMD ["--help"]
