# syntax=docker/dockerfile:1

# Build: a virtual environment from the lock file, every wheel checked against its hash.
FROM python:3.12.13-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
RUN python -m venv /opt/tessera
WORKDIR /src
COPY requirements-image.lock ./
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/tessera/bin/pip install --no-deps --require-hashes -r requirements-image.lock
COPY pyproject.toml LICENSE ./
COPY contracts contracts
COPY command command
COPY query query
COPY sagas sagas
COPY projections projections
COPY infra infra
RUN /opt/tessera/bin/pip install --no-deps --no-build-isolation --no-index .

# Run: no compiler, no test tools, no root.
FROM python:3.12.13-slim-bookworm
LABEL org.opencontainers.image.title="tessera" org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --system --gid 10001 tessera \
    && useradd --system --uid 10001 --gid tessera --home-dir /var/lib/tessera --create-home tessera
COPY --from=build /opt/tessera /opt/tessera
ENV PATH=/opt/tessera/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TESSERA_HTTP_HOST=0.0.0.0 TESSERA_HTTP_PORT=8080
WORKDIR /var/lib/tessera
USER tessera
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"TESSERA_HTTP_PORT\"]}/health/live', timeout=4)"]
ENTRYPOINT ["tessera"]
CMD ["serve"]
