# Two images of one file: `pylb` (the default; balancer, controller and demo servers) and `locust` (the load).
#
#   docker build -t pylb .
#   docker run --rm -p 8080:8080 --cpus 2 pylb python -m pylb serve --bind 0.0.0.0:8080 --server 192.0.2.1:80
#
# Dependencies come as wheels, so no compiler is needed; what installs them stays out of the image that serves.

ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python3 -m venv /opt/pylb
# Exactly the releases that were tested, and exactly those files.
COPY deploy/requirements.lock deploy/
RUN /opt/pylb/bin/pip install --require-hashes -r deploy/requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY pylb pylb
COPY controller controller
RUN /opt/pylb/bin/pip install --no-deps .

FROM build AS locust
COPY deploy/requirements-load.lock deploy/
RUN /opt/pylb/bin/pip install -r deploy/requirements-load.lock
RUN useradd --uid 10001 --create-home locust
WORKDIR /demo
COPY bench/__init__.py bench/fast_user.py bench/
COPY deploy/locustfile.py deploy/
ENV PATH=/opt/pylb/bin:$PATH PYTHONPATH=/demo PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8089
CMD ["locust", "-f", "deploy/locustfile.py"]

FROM build AS trimmed
RUN /opt/pylb/bin/pip uninstall --yes pip setuptools

FROM ${BASE} AS pylb
# The directories are the user's, so that volumes made for them are, too.
RUN useradd --uid 10001 --no-create-home pylb \
    && install -d -o pylb -g pylb -m 0700 /run/pylb /run/pylb-controller /etc/pylb /etc/pylb/tls
COPY --from=trimmed /opt/pylb /opt/pylb
ENV PATH=/opt/pylb/bin:$PATH PYTHONUNBUFFERED=1 PYLB_RUNTIME_DIR=/run/pylb
USER 10001:10001
EXPOSE 8080 8443
# Exit code 1: no worker serves; 2: nobody answers.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["python", "-m", "pylb", "status"]
# The supervisor is made to be PID 1: it reaps whatever is given to it, and TERM lets requests end first.
STOPSIGNAL SIGTERM
CMD ["python", "-m", "pylb", "serve", "-c", "/etc/pylb/pylb.toml"]
