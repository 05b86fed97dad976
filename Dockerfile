ARG BASE=python:3.13-slim

FROM ${BASE} AS build
WORKDIR /opt/neurotrale-source
# What is installed first changes least: this layer is taken from the cache as long as it does.
COPY requirements.txt requirements-viewer.txt ./
COPY container/install.sh container/requirements-build.txt container/
RUN container/install.sh requirements
COPY pyproject.toml README.md LICENSE ./
COPY neurotrale neurotrale
RUN container/install.sh package

FROM ${BASE}
LABEL org.opencontainers.image.title="neurotrale" \
      org.opencontainers.image.description="Serve brain microscopy and its annotations straight from the file system" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="BSD-2-Clause"
COPY --from=build /opt/neurotrale /opt/neurotrale
COPY --chmod=755 container/entrypoint.sh container/selftest.py container/health.py /apps/
RUN ln -s /opt/neurotrale/bin/neurotrale /usr/local/bin/neurotrale && mkdir /data
ENV PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1
# The first user of most machines, so that its files can be edited; --user names another.
USER 1000:1000
EXPOSE 9000
HEALTHCHECK --interval=30s --timeout=15s --start-period=60s \
    CMD ["/opt/neurotrale/bin/python", "/apps/health.py", "/tmp/neurotrale-ready.json"]
ENTRYPOINT ["/apps/entrypoint.sh"]
