# The README's two commands without a network, after the build:
#   docker build -t seqsetvae .
#   docker run --rm --network none seqsetvae
#   docker run --rm --network none --shm-size 1g seqsetvae .venv/bin/python -m pytest -n 2
FROM python:3.11-slim

# LightGBM needs OpenMP.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 user && install -d -o user /app
USER 1000
WORKDIR /app

# CPU builds of torch: PyPI's builds for Linux bring CUDA, some gigabytes. For a GPU leave this line out.
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
COPY --chown=1000 requirements.txt requirements-dev.txt constraints.txt ./
RUN python -m venv .venv && .venv/bin/pip install --no-cache-dir -q -r requirements-dev.txt -c constraints.txt
COPY --chown=1000 . .
CMD [".venv/bin/python", "train_optimized.py", "--mode", "demo"]
