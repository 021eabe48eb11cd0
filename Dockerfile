# vsgrpo on a GPU node. Not built by this project's tests.
#
#   docker build -t vsgrpo .
#   docker run --gpus all --shm-size 16g -v $PWD/data:/work/data -v $PWD/runs:/work/runs vsgrpo doctor
#
# The -devel image has nvcc, which DeepSpeed needs to build its operators when a run first asks for them.
FROM nvidia/cuda:12.8.1-devel-ubuntu24.04

ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 PATH=/opt/venv/bin:$PATH
# Ubuntu's archive drops old versions: pinned packages would soon fail to install.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-dev python3-venv git ninja-build \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/venv

WORKDIR /opt/vsgrpo
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY src src
RUN pip install .

WORKDIR /work
ENTRYPOINT ["vsgrpo"]
CMD ["--help"]
