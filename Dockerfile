# One image for every command: `docker run … streamapp worker`, `producer`, `topics create`.

FROM python:3.13-slim AS build
WORKDIR /src
COPY . .
RUN python -m venv --without-pip /opt/streamapp \
    && pip --python /opt/streamapp install --no-cache-dir --constraint constraints.txt .

FROM python:3.13-slim
# A fixed number, so that folders mounted from the host can be given to it.
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin streamapp \
    && install --directory --owner streamapp --group streamapp /var/lib/streamapp
COPY --from=build /opt/streamapp /opt/streamapp
ENV PATH=/opt/streamapp/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    STREAMAPP_DATA_DIR=/var/lib/streamapp
USER streamapp
WORKDIR /var/lib/streamapp
VOLUME /var/lib/streamapp
# Asks the views on the container's loopback, with the token where they want one.
HEALTHCHECK --start-period=60s --timeout=5s CMD ["python", "-c", "\
from os import environ; from urllib.request import Request, urlopen; \
urlopen(Request('http://127.0.0.1:' + environ.get('STREAMAPP_WEB_PORT', '6066') + '/health/', \
headers={'Authorization': 'Bearer ' + environ.get('STREAMAPP_WEB_TOKEN', '')}), timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["streamapp"]
CMD ["worker"]
