# nclib with the locked versions, and a CPU build of torch:
#   docker build -t nclib . && docker run --rm -it -v "$PWD/outputs:/nclib/outputs" nclib make reproduce
# For a GPU: docker build --build-arg TORCH_INDEX= -t nclib . (the lock's CUDA build), and docker run --gpus all ...
FROM python:3.12-slim-bookworm
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PYTHONDONTWRITEBYTECODE=1
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /nclib
COPY . .
RUN make setup TORCH_INDEX="${TORCH_INDEX}" && rm -rf /root/.cache
CMD ["make", "reproduce"]
