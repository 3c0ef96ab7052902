# slidescan in a container, from its wheel:
#
#   python -m build --wheel
#   docker build -t slidescan .                                                    # CPU
#   docker build -t slidescan:cuda --build-arg TORCH_INDEX=https://pypi.org/simple .   # NVIDIA GPUs
#
# It runs as a user without rights, with a read-only root, and needs no network:
#
#   docker run --rm --read-only --tmpfs /tmp --network none --user "$(id -u):$(id -g)" \
#       -v "$PWD:/data" slidescan heatmap slides/ --out maps
#
# With GPUs add --gpus all. What it compiles is kept in /tmp/cache: mount a folder there to keep it
# for the next run.

FROM python:3.12-slim-trixie AS install

# PyPI has the CUDA build of torch for Linux, PyTorch's own index the one for the CPU.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

WORKDIR /install
COPY constraints.txt dist/slidescan-*.whl ./
# torch first, so that the other libraries come from PyPI whatever index it came from.
RUN python -m venv /opt/slidescan \
    && torch="$(grep '^torch==' constraints.txt)" \
    && /opt/slidescan/bin/pip install --no-cache-dir --index-url "$TORCH_INDEX" \
        --extra-index-url https://pypi.org/simple "$torch" \
    && wheel="$(ls slidescan-*.whl)" \
    && /opt/slidescan/bin/pip install --no-cache-dir -c constraints.txt "${wheel}[view]"

FROM python:3.12-slim-trixie

LABEL org.opencontainers.image.title="slidescan" \
      org.opencontainers.image.description="Tumour heatmaps of whole slides. Research use only: not a medical device." \
      org.opencontainers.image.licenses="Apache-2.0"

COPY --from=install /opt/slidescan /opt/slidescan

# Any user may write to /tmp and nowhere else. The root is read-only, so no bytecode is written.
ENV PATH=/opt/slidescan/bin:$PATH \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

USER 10001:10001
WORKDIR /data
ENTRYPOINT ["slidescan"]
CMD ["--help"]
