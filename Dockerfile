# Two images: `train` has everything, `serve` answers by an ONNX export, without torch.
# compose.yaml builds and runs them; docs/deployment.md says how.
FROM python:3.11.14-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    HOME=/cache \
    XDG_CACHE_HOME=/cache \
    HF_HOME=/cache/huggingface \
    TORCH_HOME=/cache/torch \
    MPLCONFIGDIR=/cache/matplotlib \
    NO_ALBUMENTATIONS_UPDATE=1
# Any user may write to the cache: compose.yaml runs as whoever owns data/ and runs/.
RUN useradd --uid 1000 --no-create-home --home-dir /cache classifier \
    && mkdir -p /cache /app/data /app/runs /app/input /app/models \
    && chmod 1777 /cache \
    && chown classifier:classifier /app/data /app/runs
WORKDIR /app

FROM base AS serve
COPY requirements-serve.lock ./
RUN python -m pip install --compile --require-hashes -r requirements-serve.lock
COPY classifier classifier
COPY scripts/serve.py scripts/serve.py
RUN python -m compileall -q classifier scripts
USER classifier
EXPOSE 8000
# LitServe asks for the key here, too, where one is set.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(u.Request('http://127.0.0.1:8000/health', headers={'X-API-Key': os.environ.get('LIT_SERVER_API_KEY', '')}))"]
ENTRYPOINT ["python", "scripts/serve.py"]
CMD ["models/model.onnx", "--host", "0.0.0.0"]

FROM base AS train
COPY requirements.lock ./
RUN python -m pip install --compile --require-hashes -r requirements.lock
COPY main.py ./
COPY scripts scripts
COPY configs configs
COPY classifier classifier
RUN python -m compileall -q main.py classifier scripts
USER classifier
ENTRYPOINT ["python", "main.py"]
CMD ["--help"]
